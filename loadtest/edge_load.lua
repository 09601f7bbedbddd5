-- Requests for wrk: EVENTS events in each, every event id a new one. The key comes by the environment: command lines
-- are read by others.
local events = tonumber(os.getenv("AFLUENTE_BENCH_EVENTS"))
local number = 0
local run = 0

wrk.method = "POST"
wrk.headers["X-Write-Key"] = os.getenv("AFLUENTE_BENCH_KEY")
wrk.headers["Content-Type"] = "application/json"

function init(_)
  math.randomseed(os.time())
  run = math.random(0, 0xfffffff)
end

local function event(kind)
  number = number + 1
  return string.format(
    '{%s"event_id":"%08x-%012x","url":"https://shop.example/p/1?utm_source=meta","session_id":"s1",'
      .. '"utm_source":"meta","properties":{"position":3}}',
    kind, run, number)
end

function request()
  if events == 1 then
    return wrk.format(nil, "/track/click", nil, event(""))
  end
  local list = {}
  for place = 1, events do
    list[place] = event('"event_type":"click",')
  end
  return wrk.format(nil, "/track/batch", nil, "[" .. table.concat(list, ",") .. "]")
end
