-- Patterns over subjects: `*` is one token, `>` at the end one or more; the empty pattern is every subject. In the
-- first place a wildcard does not stand for a token that begins with `$`.

-- Patterns compiled so far; forgotten all together when they are many.
local COMPILED_MAX = 10000
local compiled, count = {}, 0

local function compile(filter)
    local pattern = filter:gsub('[%^%$%(%)%%%.%[%]%+%-%?]', '%%%0')
    pattern = pattern:gsub('%*', '[^.]+'):gsub('>', '.+')
    return {
        pattern = '^' .. pattern .. '$',
        is_one = filter ~= '' and filter:find('[*>]') == nil,
        is_all = filter == '',
        -- The literal text that every matching subject begins with.
        prefix = filter:match('^[^*>]*'),
        begins_wild = filter:find('^[*>]') ~= nil,
    }
end

local function get(filter)
    local found = compiled[filter]
    if found == nil then
        if count >= COMPILED_MAX then
            compiled, count = {}, 0
        end
        found = compile(filter)
        compiled[filter], count = found, count + 1
    end
    return found
end

local function matches(found, filter, subject)
    if found.is_all then
        return true
    elseif found.is_one then
        return filter == subject
    elseif found.begins_wild and subject:byte() == 0x24 then
        return false
    end
    return subject:find(found.pattern) ~= nil
end

return {
    get = get,
    matches = matches,
}
