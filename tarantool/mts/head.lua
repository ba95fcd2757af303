-- News of what was committed: subjects with new messages, consumers with work. One call of each broker waits here.
--
-- A place in the news is a run and a number in it. A run begins when this instance begins to take writes, and ends with
-- that. Who comes with another run, or from before what is kept, is told that it may have missed something.

local clock = require('clock')
local digest = require('digest')
local fiber = require('fiber')

local fault = require('mts.fault')

-- News kept for those who are late.
local KEPT_MAX = 10000
-- Seconds that one call may wait.
local WAIT_MAX = 30

-- No run, no news.
local run
local last, kept = 0, {}
local news = fiber.cond()

-- Begins a run: what was told before is nobody's business any more.
local function begin()
    run = digest.urandom(8):hex()
    last, kept = 0, {}
    news:broadcast()
end

-- Ends the run, and those who wait for its news.
local function stop()
    run = nil
    news:broadcast()
end

local function add(item)
    last = last + 1
    kept[last] = item
    kept[last - KEPT_MAX] = nil
end

-- Tells of a transaction that is durable.
local function publish(told)
    if run == nil then
        return
    end
    local before = last
    for name, sequence in pairs(told.raised or {}) do
        add({ subject = name, sequence = sequence })
    end
    for name in pairs(told.rung or {}) do
        add({ consumer = name })
    end
    if last > before then
        news:broadcast()
    end
end

local function collect(from)
    local raised, rung = {}, {}
    for number = from + 1, last do
        local item = kept[number]
        if item.consumer ~= nil then
            rung[item.consumer] = true
        elseif item.sequence > (raised[item.subject] or 0) then
            raised[item.subject] = item.sequence
        end
    end
    local subjects, consumers = {}, {}
    for name, sequence in pairs(raised) do
        table.insert(subjects, { name, sequence })
    end
    for name in pairs(rung) do
        table.insert(consumers, name)
    end
    return subjects, consumers
end

-- Waits until something happens after a place, for at most `timeout` seconds: the place now, whether this is all that
-- happened since, subjects with their last sequences, and consumers.
local function wait(of_run, from, timeout)
    local deadline = clock.monotonic() + math.min(timeout, WAIT_MAX)
    if of_run ~= run or from > last or from < last - KEPT_MAX then
        return { run, last, false, {}, {} }
    end
    while run == of_run and last <= from do
        local left = deadline - clock.monotonic()
        if left <= 0 or not news:wait(left) then
            break
        end
    end
    if run ~= of_run then
        return nil, fault.new(fault.KIND.READ_ONLY, 'another instance takes writes now: its news are the ones to hear')
    elseif from < last - KEPT_MAX then
        return { run, last, false, {}, {} }
    end
    return { run, last, true, collect(from) }
end

return {
    begin = begin,
    publish = publish,
    stop = stop,
    wait = wait,
}
