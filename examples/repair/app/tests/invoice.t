t net_total_lines   '3250'        net_total '2x1500 1x250'
t pieces_lines      '3'           pieces '2x1500 1x250'
t discount_none     '0'           discount 9
t discount_ten      '5'           discount 10
t discount_many     '10'          discount 50
t discount_not_yet  '5'           discount 49
t shipping_free     '0'           shipping 10000 yes
t shipping_home     '490'         shipping 9999 no
t shipping_abroad   '790'         shipping 500 yes
t to_pay_small      '3740'        to_pay '2x1500 1x250' no
t to_pay_discount   '9990'        to_pay '8x1000 2x1000' no
t reference_check   '202300017-3' reference 2023 17
t reference_zero    '202300500-0' reference 2023 500
