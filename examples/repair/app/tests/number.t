t roman_19         'XIX'  roman 19
t roman_8          'VIII' roman 8
t from_hex         '255'  from_base ff 16
t from_bad_digit   '-1'   from_base 12 2
t from_no_digit    '-1'   from_base 1z 16
t to_binary        '1010' to_base 10 2
t to_hex           'ff'   to_base 255 16
t ordinal_first    '21st' ordinal 21
t ordinal_second   '2nd'  ordinal 2
t ordinal_third    '3rd'  ordinal 3
t ordinal_11       '11th' ordinal 11
t ordinal_13       '13th' ordinal 13
t human_small      '1023' human 1023
t human_kilo       '1.5K' human 1536
t human_limit      '1K'   human 1024
t human_mega       '2M'   human 2097152
