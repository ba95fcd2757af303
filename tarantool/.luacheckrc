std = 'luajit'
globals = { 'box', 'mts' }
read_globals = { table = { fields = { copy = {} }, other_fields = true } }
max_line_length = 120
