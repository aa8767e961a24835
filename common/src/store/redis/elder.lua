-- Puts a task into its group, and answers with all of the group by age. ARGV: time, group, when it was accepted, id.
call('ZADD', K .. 'g:' .. ARGV[2], ARGV[3], ARGV[4])
return {time(), call('ZRANGE', K .. 'g:' .. ARGV[2], 0, -1, 'WITHSCORES')}
