-- The spaces, in versions: each step brings the schema from the version before to its own, and can be repeated after it
-- was cut short. New fields and spaces are added by a new step; a step that was released is never changed.
--
-- Bytes are fields of type `string`: they are written by these functions only, and Lua strings hold any bytes.

local log = require('log')

local fact = require('mts.fact')

-- Whether a majority of instances must have what is written.
local is_sync = false

local function space(name, format, indexes)
    local made = box.schema.space.create(name, { if_not_exists = true, is_sync = is_sync })
    made:format(format)
    for _, index in ipairs(indexes) do
        made:create_index(index.name, {
            parts = index.parts,
            unique = index.unique ~= false,
            if_not_exists = true,
        })
    end
end

local function field(name, kind, is_nullable)
    return { name = name, type = kind, is_nullable = is_nullable }
end

local function fields(kind, ...)
    local made = {}
    for index, name in ipairs({ ... }) do
        made[index] = field(name, kind)
    end
    return made
end

local function joined(...)
    local all = {}
    for _, some in ipairs({ ... }) do
        for _, one in ipairs(some) do
            table.insert(all, one)
        end
    end
    return all
end

local STEPS = {
    function()
        space('mts_subjects',
            joined(fields('string', 'subject'),
                fields('unsigned', 'last', 'floor', 'expired', 'purged', 'bytes', 'updated')),
            { { name = 'primary', parts = { 'subject' } } })
        space('mts_blocks',
            joined(fields('string', 'subject'),
                fields('unsigned', 'first', 'stream_first', 'count', 'created', 'expires', 'crc', 'bytes',
                    'read_bytes', 'payload'),
                fields('string', 'placement')),
            {
                { name = 'primary', parts = { 'subject', 'first' } },
                { name = 'stream', parts = { 'stream_first' } },
                { name = 'of_subject', parts = { 'subject', 'stream_first' } },
                { name = 'expiry', parts = { 'expires', 'subject', 'first' } },
            })
        space('mts_ids',
            joined(fields('string', 'subject', 'id'), fields('unsigned', 'sequence', 'deadline')),
            {
                { name = 'primary', parts = { 'subject', 'id' } },
                { name = 'deadline', parts = { 'deadline', 'subject', 'id' } },
            })
        space('mts_positions',
            joined(fields('string', 'durable', 'subject'), fields('unsigned', 'sequence')),
            { { name = 'primary', parts = { 'durable', 'subject' } } })
        space('mts_payloads', fields('unsigned', 'number', 'kind', 'writer', 'alive', 'len'),
            { { name = 'primary', parts = { 'number' } } })
        space('mts_garbage', fields('unsigned', 'since', 'number', 'kind'),
            { { name = 'primary', parts = { 'since', 'number' } } })
        space('mts_schedule',
            joined(fields('unsigned', 'due', 'stream_first'), fields('string', 'subject')),
            { { name = 'primary', parts = { 'due', 'stream_first' } } })
        space('mts_uploads',
            joined(fields('string', 'id'), fields('unsigned', 'deadline', 'state', 'object', 'epoch'),
                fields('string', 'header'), fields('unsigned', 'offset'),
                fields('string', 'tally', 'receipt', 'subject'),
                fields('unsigned', 'sequence', 'size'), fields('string', 'sha256')),
            {
                { name = 'primary', parts = { 'id' } },
                { name = 'deadline', parts = { 'deadline', 'id' } },
            })
        space('mts_consumers',
            joined(fields('string', 'name'), fields('unsigned', 'version'), fields('string', 'settings', 'cursor')),
            { { name = 'primary', parts = { 'name' } } })
        space('mts_pending',
            joined(fields('string', 'consumer'), fields('unsigned', 'page'), fields('string', 'row')),
            { { name = 'primary', parts = { 'consumer', 'page' } } })
        space('mts_brokers',
            joined(fields('unsigned', 'number'), fields('number', 'deadline')),
            {
                { name = 'primary', parts = { 'number' } },
                { name = 'deadline', parts = { 'deadline', 'number' } },
            })
        space('mts_sessions',
            joined(fields('string', 'consumer'), fields('unsigned', 'session', 'broker')),
            {
                { name = 'primary', parts = { 'consumer', 'session' } },
                { name = 'broker', parts = { 'broker', 'consumer', 'session' } },
            })
        space('mts_leases',
            joined(fields('string', 'name', 'owner'), fields('unsigned', 'epoch'), fields('number', 'deadline')),
            { { name = 'primary', parts = { 'name' } } })
        space('mts_batches',
            joined(fields('string', 'id'), fields('number', 'at'), fields('any', 'answer')),
            {
                { name = 'primary', parts = { 'id' } },
                { name = 'age', parts = { 'at', 'id' } },
            })
    end,
}

local function spaces()
    local found = {}
    for _, row in box.space._space:pairs() do
        if row.name:sub(1, 4) == 'mts_' then
            table.insert(found, box.space[row.name])
        end
    end
    return found
end

-- Brings the schema to this version, on the instance that takes writes; `replicated` says that there are others. What
-- is there already is not written again.
local function upgrade(replicated)
    is_sync = replicated
    -- Those that a single instance made.
    for _, made in ipairs(spaces()) do
        if made.is_sync ~= is_sync then
            made:alter({ is_sync = is_sync })
        end
    end
    if box.space.mts_facts == nil then
        space('mts_facts', joined(fields('string', 'name'), fields('unsigned', 'value')),
            { { name = 'primary', parts = { 'name' } } })
    end
    local version = fact.get(fact.NAME.SCHEMA, 0)
    if version > #STEPS then
        error(('the schema has version %d, and this version of the modules knows %d: use the newer one')
            :format(version, #STEPS))
    end
    for next = version + 1, #STEPS do
        STEPS[next]()
        fact.set(fact.NAME.SCHEMA, next)
        log.info('schema: version %d', next)
    end
end

-- Returns when a majority has everything that was written before: definitions are not synchronous, rows are.
local function confirm(term)
    fact.set(fact.NAME.TERM, term)
end

-- Removes every row, as if nothing had ever been stored. For tests.
local function reset()
    for _, made in ipairs(spaces()) do
        made:truncate()
    end
    fact.set(fact.NAME.SCHEMA, #STEPS)
end

return {
    confirm = confirm,
    reset = reset,
    upgrade = upgrade,
}
