require "webrick"

server = WEBrick::HTTPServer.new(BindAddress: "0.0.0.0", Port: ENV["PORT"].to_i, AccessLog: [])
server.mount_proc("/") { |_, answer| answer.body = "hello from ruby\n" }
trap("TERM") { server.shutdown }
server.start
