// event is the decoded JSON, or a Buffer; what is returned is JSON, text or bytes.
export async function handle (event, context) {
  const name = event.name ?? 'world'
  console.log('greeting', name) // goes to the run's log
  return { hello: name, attempt: context.attempt }
}
