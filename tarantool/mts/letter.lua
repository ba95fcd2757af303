-- Dead letters: messages that a consumer gave up, under another subject and by reference to the same bytes.

local block = require('mts.block')
local fault = require('mts.fault')
local payload = require('mts.payload')
local retention = require('mts.retention')
local subject = require('mts.subject')

-- What the broker sends of a letter.
local LETTER = {
    SUBJECT = 1,       -- of the message
    FIRST = 2,         -- of its block
    SEQUENCE = 3,      -- of the message
    NEW = 4,           -- the block to insert
    FALLBACK = 5,      -- the one to insert if nobody knows the payload any more
}

-- The broker saw the message before this transaction: is it still there?
local function is_live(letter)
    local name = letter[LETTER.SUBJECT]
    return box.space.mts_blocks:get({ name, letter[LETTER.FIRST] }) ~= nil
        and letter[LETTER.SEQUENCE] >= subject.floor(name)
end

local function insert(told, letter)
    local new = letter[LETTER.NEW]
    local number = new[block.NEW.PAYLOAD]
    if number ~= 0 and not payload.is_known(number) then
        new = letter[LETTER.FALLBACK]
    end
    return block.insert(told, new[block.NEW.SUBJECT], new)
end

-- Moves a message that is alone in its block, as the broker saw it: `placement` proves that it is the same. Gives its
-- sequence there.
local function move(told, name, sequence, placement, new, now)
    local found = box.space.mts_blocks:get({ name, sequence })
    if found == nil or sequence < subject.floor(name) then
        return 0
    elseif found[block.BLOCK.PLACEMENT] ~= placement then
        return nil, fault.new(fault.KIND.CONFLICT, "message %s of '%s' is another one now", tostring(sequence), name)
    end
    local first, err = block.insert(told, new[block.NEW.SUBJECT], new)
    if first == nil then
        return nil, err
    end
    local removed
    removed, err = retention.remove_one(found, now)
    if not removed then
        return nil, err
    end
    return first
end

return {
    insert = insert,
    is_live = is_live,
    move = move,
}
