#!/usr/bin/env tarantool
-- The store as tests start it: it can be emptied, tells what it holds and where it listens, and ends with the process that started it.

local ffi = require('ffi')
local fiber = require('fiber')
local fio = require('fio')

local here = debug.getinfo(1, 'S').source:match('^@(.*)/[^/]*$') or '.'
dofile(here .. '/init.lua')

local schema = require('mts.schema')
local functions = {
    reset = function()
        schema.reset()
        return 'ok', true
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
for name, of in pairs(functions) do
    mts[name] = of
end
require('mts.user').grant('mts_test', os.getenv('MTS_PASSWORD'), functions)

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
