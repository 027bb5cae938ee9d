def handle(event, context):
    name = event.get("name", "world") if isinstance(event, dict) else "world"
    return {"hello": name}
