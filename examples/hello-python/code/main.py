def handle(event, context):
    """event is the decoded JSON, or bytes; what is returned is JSON, text or bytes."""
    name = event.get("name", "world") if isinstance(event, dict) else "world"
    print("greeting", name)  # goes to the run's log
    return {"hello": name, "attempt": context.attempt}
