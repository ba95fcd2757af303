-- Single numbers that the store keeps.

local FACT = { NAME = 1, VALUE = 2 }

local NAME = {
    NEXT_BROKER = 'next_broker',    -- the number of the next broker process
    NEXT_PAYLOAD = 'next_payload',  -- the number of the next segment or object
    NEXT_STREAM = 'next_stream',    -- the next stream sequence
    OPEN_UPLOADS = 'open_uploads',  -- how many uploads are open
    SCHEMA = 'schema',              -- the version of the schema
    TERM = 'term',                  -- the number of the last election whose leader took writes
}

local function get(name, default)
    local row = box.space.mts_facts:get(name)
    return row and row[FACT.VALUE] or default
end

local function set(name, value)
    box.space.mts_facts:replace({ name, value })
end

return {
    NAME = NAME,
    get = get,
    set = set,
}
