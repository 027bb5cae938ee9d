"""Counts the prime numbers below a number, in parts that run at the same time."""

import json

import mayfly  # is there in every handler


def handle(event, context):
    event = event or {}  # of a request without a body
    if "from" in event:
        return count(event["from"], event["to"])
    below, parts = event.get("below", 100_000), event.get("parts", 8)
    edges = [below * i // parts for i in range(parts + 1)]
    tasks = mayfly.submit_all(
        {"workload": context.workload, "payload": {"from": a, "to": b}}
        for a, b in zip(edges, edges[1:])
    )
    counts = [json.loads(result) for result in mayfly.results(tasks, timeout=context.remaining())]
    return {"primes": sum(counts), "parts": len(counts)}


def count(start, end):
    sieve = bytearray([1]) * end
    sieve[:2] = bytes(min(2, end))
    for n in range(2, int(end**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, end, n)))
    return sum(sieve[start:end])
