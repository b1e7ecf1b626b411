t split_plain      'a|b|c'    split_row 'a,b,c'
t split_empty      '|x|'      split_row ',x,'
t split_quoted     'a,b|c'    split_row '"a,b",c'
t split_double     'say "hi"' split_row '"say ""hi"""'
t count_one        '1'        count 'abc'
t count_quoted     '2'        count '"1,2,3",4'
t pick_first       'x'        pick 'x,y,z' 1
t pick_last        'z'        pick 'x,y,z' -1
t pick_zero        'none'     pick 'x,y,z' 0
t pick_beyond      'none'     pick 'x,y,z' 4
t quote_plain      'abc'      quote abc
t quote_comma      '"a,b"'    quote 'a,b'
t quote_quote      '"a""b"'   quote 'a"b'
