t on_hand_moves    '12'    on_hand '+10@250 -3 +5@260'
t order_enough     '0'     order 6 5 20 6
t order_limit      '18'    order 5 5 20 6
t order_boxes      '20'    order 0 5 20 10
t fifo_one         '750'   fifo '+10@250 -3'
t fifo_two_prices  '3020'  fifo '+10@250 +5@260 -12'
t fifo_twice       '1300'  fifo '+4@250 +5@300 -3 -2'
t lasts_days       '15'    lasts 10 20 30
t lasts_never      'never' lasts 10 0 30
t shelf_first      'A1'    shelf 1
t shelf_tenth      'A10'   shelf 10
t shelf_next       'B1'    shelf 11
t shelf_around     'A2'    shelf 42
