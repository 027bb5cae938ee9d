package require json::write

proc accept {c address port} {
    fconfigure $c -translation {auto crlf}
    while {[gets $c line] > 0} {}
    set body [json::write object text [json::write string "hello from tcl"]]
    puts -nonewline $c "HTTP/1.1 200 OK\nConnection: close\nContent-Length: [string length $body]\n\n$body"
    close $c
}
socket -server accept $env(PORT)
vwait forever
