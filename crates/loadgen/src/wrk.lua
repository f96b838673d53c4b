-- The load of `make bench` for wrk: requests from a file, picked at random; figures in one line.
local requests = {}

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  while true do
    local length = file:read("*l")
    if not length then break end
    requests[#requests + 1] = file:read(tonumber(length))
  end
  file:close()
  math.randomseed(1)
end

function request()
  return requests[math.random(#requests)]
end

function done(summary, latency)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  local line = { summary.requests, summary.duration, errors.status, broken }
  -- A thousand quantiles are the distribution, down to the 99.9th percentile.
  for step = 0, 999 do
    line[#line + 1] = math.floor(latency:percentile(step / 10 + 0.05) + 0.5)
  end
  io.write("outcome " .. table.concat(line, " ") .. "\n")
end
