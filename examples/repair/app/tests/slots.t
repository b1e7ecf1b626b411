t minutes_clock    '630'   minutes 10:30
t later_hour       '11:15' later 10:30 45
t later_midnight   '00:10' later 23:50 20
t overlap_some     '30'    overlap 09:00 10:00 09:30 11:00
t overlap_inner    '20'    overlap 09:00 12:00 10:00 10:20
t overlap_none     '0'     overlap 09:00 10:00 10:30 11:00
t open_morning     '1'     open 3 09:00
t open_early       '0'     open 3 08:59
t open_evening     '0'     open 3 18:00
t open_saturday    '1'     open 6 12:59
t open_saturday_pm '0'     open 6 13:00
t open_sunday      '0'     open 7 10:00
t fit_exact        '2'     fit 09:00 10:10 30 10
t fit_none         '0'     fit 09:00 09:20 30 10
t fit_one          '1'     fit 09:00 09:30 30 10
t pay_day          '16000' pay 480 2000
t pay_overtime     '19000' pay 540 2000
