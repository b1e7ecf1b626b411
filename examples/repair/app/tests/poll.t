t delay_third    '600'                 delay 3
t delay_grows    '2400'                delay 5
t delay_limit    '3600'                delay 30
t attempts_day   '4'                   attempts 3000
t ask_at_once    'attempt 1 after 0 s' ask 1
t ask_again      'attempt 2 after 0 s' ask 2
