t sum_three          '60'  sum '10 20 30'
t mean_three         '20'  mean '10 20 30'
t mean_none          '0'   mean ''
t median_odd         '5'   median '9 1 5'
t median_even        '25'  median '40 10 30 20'
t median_sorts       '10'  median '9 10 100 8 11'
t spread_list        '8'   spread '3 9 1 5'
t spread_first       '6'   spread '10 4 6'
t variance_known     '4'   variance '2 4 4 4 5 5 7 9'
t percentile_half    '20'  percentile '30 10 20 40' 50
t percentile_90      '100' percentile '10 20 30 40 50 60 70 80 90 100' 91
t percentile_zero    '1'   percentile '3 2 1' 0
