/**
 * What Redis does by itself, in one step each, so that no two processes see different logs. Of each channel it has a stream,
 * the log, and a hash, its state:
 *
 *     origin   the position before the first entry of all
 *     last     the position after the newest entry; the log may have let go of it
 *     bytes    of all entries so far; each entry `b` has those up to itself
 *     floor    \
 *     floorMs   } `b`, and the milliseconds, of an entry that is not younger than the oldest retained
 *     closed   1, once the channel is
 *     age      of the history that was asked for last
 *     owner, due, doubt, lease, until, forgetAfter, header, text, size
 *              who holds it; when the lease runs out, when somebody has seen that it has, how long it is, when all is
 *              forgotten if nobody looks, and the will
 *
 * Each entry names the one before it, `p`. The chain is what tells a loss: who has had the entry that `p` names has missed
 * nothing, however the log was trimmed, restored or emptied meanwhile. Where the state is gone the log is begun anew.
 *
 * `news` is a stream too, one for all channels of a shard: which of them has more, and up to where. Readers wait for it.
 */
import { createHash } from 'node:crypto'

export interface Script {
  readonly text: string
  readonly sha: string
}

/**
 * Within one millisecond sequence numbers differ by this much, and end in the tag of who appends, which is drawn for each
 * connection: so an engine that comes back without its newest entries gives none of their IDs again.
 */
export const STEP = 10_000

/** Milliseconds for which the position in a channel without entries counts, unless somebody listens. */
export const IDLE = 600_000

/** KEYS: the log, the state, the news. ARGV begins with the channel's name and the tag. */
const COMMON = `
local log, state, news = KEYS[1], KEYS[2], KEYS[3]
local name, tag = ARGV[1], tonumber(ARGV[2])
local IDLE, STEP, NEWS, DAY, LEAST, MOST = ${IDLE}, ${STEP}, 10000, 86400000, 2000, 9007199254740991
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function digits(number)
  return string.format('%.0f', number)
end

local function parse(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function isAfter(a, b)
  local msOfA, seqOfA = parse(a)
  local msOfB, seqOfB = parse(b)
  return msOfA > msOfB or (msOfA == msOfB and seqOfA > seqOfB)
end

local function following(id)
  local ms, seq = parse(id)
  if now > ms then return digits(now) .. '-' .. digits(tag) end
  return digits(ms) .. '-' .. digits((math.floor(seq / STEP) + 1) * STEP + tag)
end

local function load()
  local field = redis.call('HMGET', state, 'origin', 'last', 'bytes', 'floor', 'closed', 'owner', 'until', 'floorMs', 'age')
  if field[1] then
    return { origin = field[1], last = field[2], bytes = tonumber(field[3]), floor = tonumber(field[4]),
      closed = field[5], owner = field[6], untilMs = field[7], floorMs = tonumber(field[8]), age = tonumber(field[9]) }
  end
  -- There may have been entries within this millisecond, of which Redis knows nothing any more.
  local origin = digits(now + 1) .. '-' .. digits(clock[2] % 1000 * STEP + tag)
  redis.call('HSET', state, 'origin', origin, 'last', origin, 'bytes', 0, 'floor', 0, 'floorMs', digits(now))
  redis.call('PEXPIRE', state, IDLE)
  -- After the first write: a full Redis refuses that, and nothing is deleted.
  redis.call('DEL', log)
  return { origin = origin, last = origin, bytes = 0, floor = 0, floorMs = now }
end

local function isOurs(entry)
  local field = entry[2]
  return field[1] == 'p' and (#field == 8 or (#field == 4 and field[3] == 'end')) and string.match(field[2], '^%d+-%d+$')
end

-- The entry that comes next after a position. After the last ID that there can be Redis finds no start.
local function nextOf(position)
  local start = '(' .. position
  while true do
    local entry = redis.pcall('XRANGE', log, start, '+', 'COUNT', 1)[1]
    if not entry or isOurs(entry) then return entry end
    start = '(' .. entry[1]
  end
end

-- Whether it is not held by whom it should be.
local function isOthers(channel, owner)
  return owner ~= '' and channel.owner ~= owner
end

-- The news are for all channels: whatever others have put there instead makes way.
local function ring(...)
  local done = redis.pcall('XADD', news, 'MAXLEN', '~', NEWS, '*', 'c', name, 'i', ...)
  if type(done) == 'table' and done.err then
    redis.call('DEL', news)
    redis.call('XADD', news, '*', 'c', name, 'i', ...)
  end
  redis.call('PEXPIRE', news, DAY)
end

-- The ID of the newest entry that there ever was, whoever has put it there.
local function newestOfAll()
  local info = redis.pcall('XINFO', 'STREAM', log)
  for index = 1, #info, 2 do
    if info[index] == 'last-generated-id' then return info[index + 1] end
  end
end

-- What others have put there with an ID of the future is followed: until its time had come nothing could be added before it.
local function add(channel, events, ...)
  local id = following(channel.last)
  local done = redis.pcall('XADD', log, 'MAXLEN', '~', events, id, 'p', channel.last, ...)
  if type(done) ~= 'table' or not done.err then return id end
  local newest = newestOfAll()
  if newest and not isAfter(id, newest) then id = following(newest) end
  redis.call('XADD', log, 'MAXLEN', '~', events, id, 'p', channel.last, ...)
  return id
end

local function store(channel, header, text, size, events)
  channel.bytes = channel.bytes + size
  local id = add(channel, events, 'b', digits(channel.bytes), 'h', header, 't', text)
  redis.call('HSET', state, 'last', id, 'bytes', digits(channel.bytes), 'age', channel.age or '')
  channel.last = id
end

-- Those who listen need some time to read that it is closed.
local function close(channel, forgetAfter)
  local id = add(channel, MOST, 'end', '1')
  redis.call('HSET', state, 'closed', '1')
  redis.call('HDEL', state, 'owner', 'due', 'doubt', 'lease', 'until', 'forgetAfter', 'header', 'text', 'size')
  for _, key in ipairs({ log, state }) do
    if forgetAfter then redis.call('PEXPIRE', key, math.max(forgetAfter, LEAST)) else redis.call('PERSIST', key) end
  end
  channel.closed = '1'
  channel.owner = false
  ring(id)
end
`

function script (body: string): Script {
  const text = COMMON + body
  return { text, sha: createHash('sha1').update(text).digest('hex') }
}

/**
 * ARGV: header, text, size; the history: events, bytes, age or ''; the owner or ''. Gives the ID; nothing where the channel is
 * closed, or another's.
 */
export const APPEND = script(`
local header, text, size = ARGV[3], ARGV[4], tonumber(ARGV[5])
local events, bytes, age, owner = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]

-- Whether the bytes after the entry fill the history by themselves, or it is too old.
local function isExcess(channel)
  return channel.bytes - channel.floor >= bytes or (age and channel.floorMs <= now - age)
end

local function trim(channel)
  repeat
    local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 32)
    local keep
    for _, entry in ipairs(oldest) do
      channel.floor = isOurs(entry) and tonumber(entry[2][4]) or channel.floor
      channel.floorMs = parse(entry[1])
      keep = entry[1]
      if not isExcess(channel) then break end
    end
    if keep then redis.call('XTRIM', log, 'MINID', keep) end
  until #oldest < 32 or not isExcess(channel)
  redis.call('HSET', state, 'floor', digits(channel.floor), 'floorMs', digits(channel.floorMs))
end

local channel = load()
if channel.closed or isOthers(channel, owner) then return false end
channel.age = age
store(channel, header, text, size, events)
if isExcess(channel) then trim(channel) end
if channel.owner then
  redis.call('PEXPIREAT', log, channel.untilMs)
elseif age then
  redis.call('PEXPIRE', log, age)
  redis.call('PEXPIRE', state, age + IDLE)
else
  redis.call('PERSIST', log)
  redis.call('PERSIST', state)
end
ring(channel.last)
return channel.last
`)

/**
 * ARGV: a position after which they were stored, if they were; headers. Gives the position after which everything that was stored
 * is still there; then of each header the ID of its entry, or nothing.
 */
export const RECALL = script(`
local since, places, reply, left = ARGV[3], {}, {}, #ARGV - 3
for place = 2, left + 1 do
  places[ARGV[place + 2]] = place
  reply[place] = false
end
local to = '+'
repeat
  local entries = redis.call('XREVRANGE', log, to, since, 'COUNT', 100)
  for _, entry in ipairs(entries) do
    local place = places[entry[2][6]]
    if place then reply[place], left = entry[1], left - 1 end
    to = '(' .. entry[1]
  end
until left == 0 or #entries < 100
local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
local field = redis.call('HMGET', state, 'origin', 'last')
local base = oldest and isOurs(oldest) and oldest[2][2] or field[2]
local reach = base and base ~= field[1] and base or '0-0'
-- It may have been closed, forgotten and begun anew since; not within less time than a closed one is kept.
local kept = digits(now - LEAST) .. '-0'
if not (field[1] and isAfter(since, field[1])) and isAfter(kept, reach) then reach = kept end
reply[1] = reach
return reply
`)

/** ARGV: forgetAfter or '', the owner or ''. */
export const CLOSE = script(`
local channel = load()
if not channel.closed and not isOthers(channel, ARGV[4]) then close(channel, tonumber(ARGV[3])) end
return channel.last
`)

/** ARGV: owner, lease, forgetAfter; the will: header or '', text, size. Gives 1 where the owner holds the channel now. */
export const OPEN = script(`
local owner, lease, forgetAfter = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local channel = load()
if channel.closed or (channel.owner and channel.owner ~= owner) then return 0 end
if not channel.owner then ring(channel.last, 'h', '1') end
-- Those who listen look some time after the lease has run out, by their own clocks.
local untilMs = digits(now + 4 * lease + forgetAfter + IDLE)
redis.call('HSET', state, 'owner', owner, 'due', digits(now + lease), 'lease', digits(lease), 'until', untilMs,
  'forgetAfter', digits(forgetAfter), 'header', ARGV[6], 'text', ARGV[7], 'size', ARGV[8])
redis.call('HDEL', state, 'doubt')
redis.call('PEXPIREAT', state, untilMs)
redis.call('PEXPIREAT', log, untilMs)
return 1
`)

/**
 * ARGV: a position or ''; whether a channel whose lease has run out is to be closed. Gives the last position, whether the
 * channel is closed, whether it is known, whether nothing is missing after the position asked about, the milliseconds
 * until the lease runs out and its length (-1: none), and the last position of the news.
 */
export const LOOK = script(`
local position, mayClose = ARGV[3], ARGV[4] == '1'

local function isWhole(channel)
  if position == '' or position == channel.last then return 1 end
  local entry = nextOf(position)
  return entry and entry[2][2] == position and 1 or 0
end

local channel = load()
-- Redis has come back as it was before: whatever it had between is missing for everybody, and comes before what is to come.
if position ~= '' and isAfter(position, channel.last) then
  channel.last = following(position)
  redis.call('HSET', state, 'last', channel.last)
  position = '0-0'
end
local left, lease = -1, -1
if channel.owner then
  local field = redis.call('HMGET', state, 'due', 'lease', 'forgetAfter', 'header', 'text', 'size', 'doubt')
  left, lease = math.max(tonumber(field[1]) - now, 0), tonumber(field[2])
  -- A network that was away for everybody comes back for one after the other: the owner may be about to renew.
  if mayClose and left == 0 and not field[7] then
    redis.call('HSET', state, 'doubt', digits(now))
    left = lease / 2
  elseif mayClose and left == 0 and now < field[7] + lease / 2 then
    left = field[7] + lease / 2 - now
  elseif mayClose and left == 0 then
    if field[4] ~= '' then store(channel, field[4], field[5], tonumber(field[6]), MOST) end
    close(channel, tonumber(field[3]))
    left, lease = -1, -1
  end
elseif not channel.closed then
  local ttl = redis.call('PTTL', state)
  if ttl >= 0 and ttl < IDLE then redis.call('PEXPIRE', state, IDLE) end
end
-- Where others have put something else nothing has been rung since.
local newest = redis.pcall('XREVRANGE', news, '+', '-', 'COUNT', 1)[1]
local known = channel.last ~= channel.origin or channel.closed or channel.owner
return { channel.last, channel.closed and 1 or 0, known and 1 or 0, isWhole(channel), left, lease, newest and newest[1] or '0-0' }
`)

/**
 * ARGV: a position or ''; how many entries and bytes. Gives the position before the first entry, whether that is complete,
 * and the entries.
 */
export const READ = script(`
local after, most, bytes = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

-- One entry first, then twice as many each time: entries can be large, and anybody can ask for them.
local function from(start)
  local page, size, count = {}, 0, 1
  while #page < most and size < bytes do
    local entries = redis.call('XRANGE', log, start, '+', 'COUNT', math.min(most - #page, count))
    if #entries == 0 then return page end
    for _, entry in ipairs(entries) do
      if isOurs(entry) then
        if entry[2][3] == 'end' or size >= bytes then return page end
        page[#page + 1] = entry
        size = size + #entry[2][6] + #entry[2][8]
      end
    end
    start = '(' .. entries[#entries][1]
    count = math.min(count * 2, 64)
  end
  return page
end

local channel = load()
local position = after == '0-0' and channel.origin or after
if position ~= '' then
  local entry = nextOf(position)
  local base = entry and entry[2][2] or channel.last
  if base == position then return { after, 1, from('(' .. position) } end
  -- Only what comes after the position is missing: others have deleted it, or Redis has come back without it.
  local own = redis.pcall('XRANGE', log, position, position)[1]
  if entry and own and isOurs(own) then return { base, 0, from('(' .. position) } end
  if not entry and not isAfter(position, channel.last) then return { base, 0, {} } end
end
-- It is trimmed by age when something is appended; until then what is too old is passed over.
local page = from(channel.age and not channel.closed and digits(math.max(now - channel.age, 0)) or '-')
return { page[1] and page[1][2][2] or channel.last, after == '' and 1 or 0, page }
`)

export const SCRIPTS: readonly Script[] = [APPEND, RECALL, CLOSE, OPEN, LOOK, READ]
