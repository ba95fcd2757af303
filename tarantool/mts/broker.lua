-- Brokers and the workers at them. A broker that does not say for a while that it lives is dead, and its workers with
-- it: the leases that they had are given to others.
--
--   join ─▶ alive ─renew─▶ alive ─silence, or leave─▶ gone: its number never comes back
--
-- A number stands for one life of a broker: who was taken for dead joins again and gets another.

local clock = require('clock')
local fiber = require('fiber')

local fact = require('mts.fact')

local BROKER = { NUMBER = 1, DEADLINE = 2 }
local SESSION = { CONSUMER = 1, NUMBER = 2, BROKER = 3 }

-- Field of mts_consumers, see consumer.lua.
local VERSION = 2

-- Sessions that one call forgets.
local SESSIONS_MAX = 10000

-- Nobody could renew in time before this instance took writes: silence counts from then on.
local started = clock.monotonic()

-- When a broker last said that it lives.
local heard = started

local function begin()
    started = clock.monotonic()
end

local function is_alive(number)
    return box.space.mts_brokers:get(number) ~= nil
end

local function join(_, ttl)
    local number = fact.get(fact.NAME.NEXT_BROKER, 1)
    fact.set(fact.NAME.NEXT_BROKER, number + 1)
    box.space.mts_brokers:insert({ number, fiber.time() + ttl })
    return number
end

-- How many brokers said in time that they live.
local function count()
    return box.space.mts_brokers.index.deadline:count(fiber.time(), { iterator = 'GE' })
end

-- Forgets a broker and its sessions, and tells their consumers.
local function remove(told, number)
    told.rung = told.rung or {}
    local sessions = box.space.mts_sessions
    for _, row in ipairs(sessions.index.broker:select(number, { limit = SESSIONS_MAX })) do
        local consumer = row[SESSION.CONSUMER]
        if not told.rung[consumer] then
            told.rung[consumer] = true
            -- Whoever remembers its state must look again: leases in it are over.
            box.space.mts_consumers:update(consumer, { { '+', VERSION, 1 } })
        end
        sessions:delete({ consumer, row[SESSION.NUMBER] })
    end
    -- What is left of more sessions belongs to nobody either: a broker that is not there is dead.
    box.space.mts_brokers:delete(number)
end

local function leave(told, number)
    remove(told, number)
    return true
end

-- Says that a broker lives for `ttl` seconds more, and buries those that said nothing. Gives false if it was buried.
local function renew(told, number, ttl)
    local now, elapsed = fiber.time(), clock.monotonic()
    if elapsed - heard > ttl / 2 then
        -- Nobody was heard for a while: this instance stood still, and what others said waits behind this call.
        started = elapsed
    end
    heard = elapsed
    if is_alive(number) then
        box.space.mts_brokers:update(number, { { '=', BROKER.DEADLINE, now + ttl } })
    end
    if elapsed - started > ttl then
        for _, row in ipairs(box.space.mts_brokers.index.deadline:select(now, { iterator = 'LT', limit = 100 })) do
            remove(told, row[BROKER.NUMBER])
        end
    end
    return is_alive(number)
end

-- Sessions of a consumer that may hold leases: their numbers, and their brokers.
local function sessions(consumer)
    local alive = {}
    for _, row in box.space.mts_sessions:pairs(consumer) do
        if is_alive(row[SESSION.BROKER]) then
            table.insert(alive, { row[SESSION.NUMBER], row[SESSION.BROKER] })
        end
    end
    return alive
end

local function add_session(consumer, number, broker)
    box.space.mts_sessions:replace({ consumer, number, broker })
end

local function remove_session(consumer, number)
    box.space.mts_sessions:delete({ consumer, number })
end

local function remove_sessions(consumer)
    for _, row in ipairs(box.space.mts_sessions:select(consumer)) do
        remove_session(consumer, row[SESSION.NUMBER])
    end
end

return {
    add_session = add_session,
    begin = begin,
    count = count,
    is_alive = is_alive,
    join = join,
    leave = leave,
    remove_session = remove_session,
    remove_sessions = remove_sessions,
    renew = renew,
    sessions = sessions,
}
