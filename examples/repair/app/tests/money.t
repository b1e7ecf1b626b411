t cents_whole          '700'           cents 7
t cents_fraction       '1250'          cents 12.5
t cents_cut            '199'           cents 1.999
t format_small         '0.07'          format 7
t format_thousands     '1,234.56'      format 123456
t format_three_digits  '999.00'        format 99900
t format_millions      '12,345,678.90' format 1234567890
t format_negative      '-1.50'         format -150
t round_half_up        '15'            round_to 13 5
t round_down           '20'            round_to 22 5
t share_even           '4 4 4'         share 12 3
t share_rest           '4 3 3'         share 10 3
