t gross_plain     '11900' gross 10000 19
t gross_rounds    '1'     gross 1 19
t gross_half      '54'    gross 50 7
t net_plain       '10000' net 11900 19
t net_rounds      '84'    net 100 19
t income_low      '0'     income 1000
t income_middle   '200'   income 3000
t income_high     '1400'  income 9000
t rate_food_old   '5'     rate food 2009
t rate_book_new   '7'     rate book 2010
t rate_export     '0'     rate export 2020
t rate_2007       '19'    rate wine 2007
t rate_2006       '16'    rate wine 2006
t due_positive    '250'   due 1000 700 50
t due_never_below '0'     due 100 700 50
t fee_in_time     '0'     fee 5000 10
t fee_second      '100'   fee 5000 45
