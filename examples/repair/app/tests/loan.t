t interest_month   '500'   interest 100000 6 30
t interest_rounds  '1'     interest 1000 1 18
t grow_two_years   '12100' grow 10000 10 2
t grow_nothing     '500'   grow 500 3 0
t years_three      '3'     years 10000 10 4500
t years_never      'never' years 10000 10 1000
t instalment_first '333'   instalment 1000 3 1
t instalment_last  '334'   instalment 1000 3 3
t worth_half       '5000'  worth 10000 4 2
t worth_end        '1'     worth 10000 4 4
t grade_a          'A'     grade 1 0
t grade_missed     'B'     grade 0 1
t grade_b          'B'     grade 14 0
t grade_c          'C'     grade 30 2
t grade_d          'D'     grade 5 3
t grade_late       'D'     grade 31 0
