t leap_fourth       '1'          leap 2024
t leap_century      '0'          leap 1900
t leap_400          '1'          leap 2000
t days_june         '30'         month_days 2023 6
t days_november     '30'         month_days 2023 11
t days_february     '28'         month_days 2023 2
t year_day_first    '1'          year_day 2023-01-01
t year_day_march    '60'         year_day 2023-03-01
t between_days      '7'          between 2023-05-01 2023-05-08
t between_century   '36524'      between 1900-01-01 2000-01-01
t weekday_known     'Wed'        weekday 2025-01-01
t month_end_same    '2023-04-30' month_end 2023-04-10 0
t month_end_next    '2024-01-31' month_end 2023-12-31 1
t valid_date        'yes'        valid 2023-12-31
t valid_month       'no'         valid 2023-13-01
t valid_day_zero    'no'         valid 2023-05-00
