"""What Redis does at once: the scripts, each of which is done wholly or not at all.

Redis refuses what needs memory where it has none left, unless a script has written something already. So the scripts of
a shard's owner begin with a write that needs none: what they do frees memory in the end, and must not wait for it.
"""

from __future__ import annotations

#: KEYS: stream. ARGV: length bound, then key, source and data of each entry. Gives the id of the last one.
APPEND = """
local id
for i = 2, #ARGV, 3 do
  id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'k', ARGV[i], 's', ARGV[i + 1], 'd', ARGV[i + 2])
end
return id
"""

#: KEYS: owner, state, positions of the groups, stream. ARGV: worker, milliseconds, group.
CLAIM = """
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
redis.call('HDEL', KEYS[2], 'ack')
redis.call('XLEN', KEYS[4])  -- no stream: it ends here
local token = redis.call('HINCRBY', KEYS[2], 'epoch', 1) .. ' ' .. ARGV[1]
redis.call('SET', KEYS[1], token, 'PX', ARGV[2])
if redis.call('HEXISTS', KEYS[2], 'position') == 0 then
  local gone = 0
  if redis.call('EXISTS', KEYS[4]) == 1 then
    local told, added, length = redis.call('XINFO', 'STREAM', KEYS[4]), 0, 0
    for i = 1, #told, 2 do
      if told[i] == 'entries-added' then added = told[i + 1] end
      if told[i] == 'length' then length = told[i + 1] end
    end
    gone = math.max(added - length, 0)
  end
  redis.call('HSET', KEYS[2], 'position', '0-0', 'offset', string.format('%.0f', gone), 'lost', '0')
end
redis.call('HSET', KEYS[2], 'token', token)
local at = redis.call('HMGET', KEYS[2], 'position', 'offset', 'lost')
redis.call('HSETNX', KEYS[3], ARGV[3], at[1])
return {token, at[1], at[2], at[3]}
"""

#: KEYS: owner, state. ARGV: token, milliseconds. Whether the lease was still ours.
RENEW = """
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

#: KEYS: owner, state. ARGV: token.
RELEASE = """
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HDEL', KEYS[2], 'token')
return 1
"""

#: KEYS: who has the turn. ARGV: worker, milliseconds. Whether it is this worker.
TURN = """
local now = redis.call('GET', KEYS[1])
if now and now ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

#: KEYS: the workers. ARGV: worker, milliseconds that one is remembered.
HEARTBEAT = """
local seconds = redis.call('TIME')
local now = seconds[1] * 1000 + math.floor(seconds[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - ARGV[2]))
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""

#: KEYS: as below. ARGV: token, number of the acknowledgement, milliseconds of the lease, group, position, offset, lost,
#: milliseconds that something is remembered, most that is remembered, most letters, beginning of a tree's key; then
#: what is kept, each part after its length. Gives "lost" (the lease, or by the store what it was told before), "done"
#: (before) or "ok".
ACK = """
local owner, state, positions, stream = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local heard, over, marks, marked, counters, letters = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
if redis.call('HGET', state, 'token') ~= ARGV[1] then return 'lost' end
local acks = redis.call('HGET', state, 'ack') or '0'
if acks == ARGV[2] then return 'done' end
if tonumber(acks) + 1 ~= tonumber(ARGV[2]) then return 'lost' end
redis.call('PEXPIRE', owner, ARGV[3])
redis.call('SET', owner, ARGV[1], 'PX', ARGV[3])

local group, position, most, tree = ARGV[4], ARGV[5], tonumber(ARGV[9]), ARGV[11]
local now = tonumber(string.match(position, '^%d+'))
local forgotten = string.format('%.0f', math.max(now - tonumber(ARGV[8]), 0))
local at = 11

local function take()
  at = at + 1
  return ARGV[at]
end
local function each(apply, width)
  local first = at + 2
  local last = first + tonumber(take()) * (width or 1) - 1
  for from = first, last, 1000 do
    apply(unpack(ARGV, from, math.min(from + 999, last)))
  end
  at = last
end
local function call(command, key, ...)
  return redis.call(command, key, ...)
end

for round = 1, 2 do
  for _ = 1, tonumber(take()) do
    local key = take()
    call('DEL', tree .. key)
    call('ZREM', heard, key)
    if round == 1 then call('ZADD', over, string.format('%.0f', now), key) end
  end
end
for _ = 1, tonumber(take()) do
  local key = tree .. take()
  each(function(...) call('RPUSH', key, ...) end)
end
each(function(...) call('ZADD', heard, ...) end, 2)
call('ZREMRANGEBYSCORE', over, '-inf', '(' .. forgotten)
call('ZREMRANGEBYRANK', over, 0, -(most + 1))
each(function(...) call('HSET', marks, ...) end, 2)
each(function(...) call('ZADD', marked, ...) end, 2)
local quiet = call('ZRANGEBYSCORE', marked, '-inf', '(' .. forgotten, 'LIMIT', 0, 1000)
if #quiet > 0 then
  call('HDEL', marks, unpack(quiet))
  call('ZREM', marked, unpack(quiet))
end
each(function(...) call('HSET', counters, ...) end, 2)
each(function(...) call('RPUSH', letters, ...) end)
call('LTRIM', letters, -tonumber(ARGV[10]), -1)
call('HSET', state, 'ack', ARGV[2], 'position', position, 'offset', ARGV[6], 'lost', ARGV[7])
call('HSET', positions, group, position)

local function parts(id)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(number)
end
local ms, number
for _, reached in ipairs(call('HVALS', positions)) do
  local its_ms, its_number = parts(reached)
  if not ms or its_ms < ms or (its_ms == ms and its_number < number) then
    ms, number = its_ms, its_number
  end
end
if ms > 0 or number > 0 then
  call('XTRIM', stream, 'MINID', '=', string.format('%.0f-%.0f', ms, number + 1))
end
return 'ok'
"""

#: KEYS: owner, positions of the groups, open trees, then all else that the group keeps. ARGV: group, beginning of a
#: tree's key. Whether nobody owned the shard, and all of it is gone.
FORGET = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
for _, key in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do redis.call('DEL', ARGV[2] .. key) end
redis.call('HDEL', KEYS[2], ARGV[1])
for i = 3, #KEYS do redis.call('DEL', KEYS[i]) end
return 1
"""
