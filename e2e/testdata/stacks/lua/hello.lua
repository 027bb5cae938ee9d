local socket, json = require "socket", require "cjson"

local server = assert(socket.bind("0.0.0.0", os.getenv "PORT"))
while true do
  local c = server:accept()
  repeat local line = c:receive() until not line or line == ""
  local body = json.encode { text = "hello from lua" }
  c:send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body)
  c:close()
end
