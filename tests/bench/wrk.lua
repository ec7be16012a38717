-- wrk -s wrk.lua URL -- METHOD BODY: sends the body, with each `#` replaced by a new number, and prints one line of JSON
-- at the end: requests, errors, seconds of the run, seconds of the median request and of the 99th percentile.

local method, body, number = "GET", "", 0
local headers = { ["Content-Type"] = "application/json" }

function init(args)
  method, body = args[1], args[2] or ""
end

function request()
  if body == "" then
    return wrk.format(method)
  end
  number = number + 1
  return wrk.format(method, nil, headers, (body:gsub("#", number)))
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "errors": %d, "seconds": %.6f, "median": %.6f, "p99": %.6f}\n',
    summary.requests,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6,
    latency:percentile(50) / 1e6,
    latency:percentile(99) / 1e6
  ))
end
