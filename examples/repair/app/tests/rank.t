t top_two        'ink pen'     top 'pen=5 ink=7 cup=1' 2
t top_equal      'pen ink'     top 'pen=5 ink=5 cup=1' 2
t top_all        'cup ink pen' top 'pen=1 ink=2 cup=3' 9
t place_second   '2'           place 'pen=5 ink=7 cup=1' pen
t place_equal    '1'           place 'pen=7 ink=7 cup=1' ink
t place_zero     '2'           place 'pen=5 ink=0' ink
t place_none     'none'        place 'pen=5 ink=7' mug
t share_half     '50'          share 'pen=4 ink=8 cup=4' ink
t share_rounds   '33'          share 'pen=1 ink=2' pen
t share_nothing  '0'           share 'pen=0 ink=0' pen
t stars_most     '****'        stars 89 100
t stars_one      '*'           stars 3 100
t trend_same     'same'        trend 5 7
t trend_up       'up'          trend 2 8
t trend_down     'down'        trend 9 3
