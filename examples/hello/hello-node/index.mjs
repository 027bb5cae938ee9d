export function handle(event, context) {
  return { hello: event?.name ?? "world" };
}
