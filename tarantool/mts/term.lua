-- Who takes calls: the instance that may write, from when it is prepared until it may write no more. A single instance
-- always does; of several the leader that they elected.
--
--   follows ─may write─▶ prepares: users, schema ─▶ takes calls ─may not write─▶ follows
--
-- What modules remember outside of spaces begins anew each time: another instance may have written in between.

local fiber = require('fiber')
local log = require('log')

local broker = require('mts.broker')
local head = require('mts.head')

-- Seconds before a leader that could not be prepared tries again.
local PAUSE = 0.5

local takes_calls = false

-- The number of the election, 0 where there are none.
local function number()
    local election = box.info.election
    return election and election.term or 0
end

-- Whether this is the instance to call.
local function is_mine()
    return takes_calls and not box.info.ro
end

local function begin(prepare)
    local at = number()
    prepare()
    if box.info.ro or number() ~= at then
        return
    end
    broker.begin()
    head.begin()
    takes_calls = true
    log.info('term %s: this instance takes writes', tostring(at))
end

local function stop()
    takes_calls = false
    head.stop()
    log.info('this instance takes no more writes')
end

-- Follows the roles of this instance from now on. `prepare` may yield, fail and be repeated.
local function start(prepare)
    fiber.create(function()
        fiber.name('mts.term')
        while true do
            box.ctl.wait_rw()
            local ok, err = pcall(begin, prepare)
            if takes_calls then
                box.ctl.wait_ro()
                stop()
            elseif not ok then
                log.error('this instance could take writes, and is not prepared: %s', tostring(err))
                fiber.sleep(PAUSE)
            end
        end
    end)
end

return {
    is_mine = is_mine,
    number = number,
    start = start,
}
