-- Sends the webhooks of a file for SECONDS seconds and then stops sending. So every sent webhook is answered, and the counts of
-- wrk can be compared with the rows in the database.
--
-- wrk -t THREADS … -s wrk.lua URL -- FILE SECONDS THREADS repeat|once
--
-- FILE has one request after another. Before each request is its length in ten digits.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long nanoseconds; } bench_time;
  int clock_gettime(int clock, bench_time *time);
]]
local CLOCK_MONOTONIC = 1
local time = ffi.new("bench_time")

local function now()
  ffi.C.clock_gettime(CLOCK_MONOTONIC, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

-- A request whose body never arrives, so it is never answered. wrk has no other way to stop sending on a connection.
local incomplete_request

local threads = {}
function setup(thread)
  thread:set("number", #threads)
  threads[#threads + 1] = thread
end

function init(arguments)
  incomplete_request = "POST " .. wrk.path .. " HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n"
  local file = assert(io.open(arguments[1], "rb"))
  seconds = tonumber(arguments[2])
  local shares = tonumber(arguments[3])
  is_repeated = arguments[4] == "repeat"
  requests = {}
  local position = 0
  while true do
    local length = file:read(10)
    if not length then break end
    -- Each thread sends its own share of the webhooks.
    if position % shares == number then
      requests[#requests + 1] = file:read(tonumber(length))
    else
      file:seek("cur", tonumber(length))
    end
    position = position + 1
  end
  file:close()
  next_request = 0
  unsent = 0
end

function request()
  deadline = deadline or now() + seconds
  if now() >= deadline then return incomplete_request end
  next_request = next_request + 1
  if next_request > #requests then
    if not is_repeated then
      unsent = unsent + 1
      return incomplete_request
    end
    next_request = 1
  end
  return requests[next_request]
end

function done(summary, latency)
  local unsent = 0
  for _, thread in ipairs(threads) do unsent = unsent + thread:get("unsent") end
  io.write(string.format(
    '\n{"answered": %d, "refused": %d, "failed": %d, "unsent": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout, unsent,
    latency:percentile(50), latency:percentile(99)))
end
