#!/usr/bin/env tarantool
-- The store as tests start it: it can be emptied, tells what it holds and where it listens, and ends with the process that started it.
--
-- Without elections it can follow another (MTS_TEST_FOLLOWS), and is told who takes writes: a test decides then what
-- elections would.

local ffi = require('ffi')
local fiber = require('fiber')
local fio = require('fio')

local here = debug.getinfo(1, 'S').source:match('^@(.*)/[^/]*$') or '.'
package.path = here .. '/?.lua;' .. package.path

local follows = os.getenv('MTS_TEST_FOLLOWS')
if follows ~= nil then
    local settings = require('mts.settings')
    local read = settings.read
    settings.read = function()
        local made = read()
        made.box.replication = follows
        made.box.read_only = true
        return made
    end
end
dofile(here .. '/init.lua')

local schema = require('mts.schema')
local transaction = require('mts.transaction')

local function written()
    transaction.read(function() return true end)
    return 'ok', box.info.signature
end

local function catch_up(signature)
    while box.info.signature < signature do
        fiber.sleep(0.005)
    end
    return 'ok', 0
end

local orders = {
    reset = function()
        schema.reset()
        return 'ok', 0
    end,
    -- Replicates from these.
    follow = function(addresses)
        box.cfg({ replication = addresses })
        return 'ok', 0
    end,
    -- How much was written here and elsewhere, when what is under way has ended.
    written = written,
    resign = function()
        box.cfg({ read_only = true })
        return written()
    end,
    -- Waits until it has what another wrote.
    catch_up = catch_up,
    lead = function(signature)
        catch_up(signature)
        box.cfg({ read_only = false })
        return 'ok', 0
    end,
    -- Writes what contradicts the same of another, read-only or not. Who follows nobody any more is no orphan by that.
    contradict = function()
        local read_only = box.cfg.read_only
        box.cfg({ read_only = false, replication_connect_quorum = 0 })
        box.space.mts_facts:insert({ 'contradiction', 0 })
        box.cfg({ read_only = read_only })
        return 'ok', 0
    end,
    -- Loses the row of a payload, as damage does.
    lose_payload = function(number)
        box.space.mts_payloads:delete(number)
        return 'ok', 0
    end,
    -- How many rows each space holds.
    rows = function()
        local counts = {}
        for _, row in box.space._space:pairs() do
            if row.name:sub(1, 4) == 'mts_' then
                counts[row.name] = box.space[row.name]:len()
            end
        end
        return 'ok', counts
    end,
}
for name, order in pairs(orders) do
    mts[name] = order
end
if os.getenv('MTS_REPLICATION') == nil and not box.info.ro then
    require('mts.user').grant('mts_test', os.getenv('MTS_PASSWORD'), orders)
    box.schema.user.grant('guest', 'replication', nil, nil, { if_not_exists = true })
end

ffi.cdef('int getppid(void);')
-- Told by it: it may have ended already.
local parent = tonumber(os.getenv('MTS_PARENT')) or ffi.C.getppid()
fiber.create(function()
    while ffi.C.getppid() == parent do
        fiber.sleep(0.5)
    end
    -- Who is killed cleans nothing up.
    local dir = os.getenv('MTS_TEMPORARY')
    if dir ~= nil then
        fio.rmtree(dir)
    end
    os.exit(1)
end)

io.stdout:write('ready ', tostring(box.info.listen or os.getenv('MTS_LISTEN')), '\n')
io.stdout:flush()
