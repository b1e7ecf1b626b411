t pad_short       '   42'          pad_left 42 5
t pad_exact       '12345'          pad_left 12345 5
t center_even     '..ab..'         center ab 6
t center_odd      '.ab..'          center ab 5
t center_full     'abcdef'         center abcdef 4
t cut_fits        'abcde'          cut abcde 5
t cut_long        'abc..'          cut abcdefgh 5
t wrap_one        'a bc d'         wrap 'a bc d' 6
t wrap_two        'aa bb/cc dd'    wrap 'aa bb cc dd' 5
t wrap_third      'one/two a/four' wrap 'one two a four' 5
t title_words     'Red Wine Glass' title 'red wine glass'
t title_letter    'A B'            title 'a b'
