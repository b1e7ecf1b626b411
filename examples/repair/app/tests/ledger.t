t balance_cash      '4000'       balance "$data/shop.ledger" cash
t balance_bank      '33000'      balance "$data/shop.ledger" bank
t balance_nobody    '0'          balance "$data/shop.ledger" nobody
t lowest_cash       '-2500'      lowest "$data/shop.ledger" cash
t lowest_bank       '0'          lowest "$data/shop.ledger" bank
t entries_february  '4'          entries "$data/shop.ledger" 2023-02-01 2023-03-01
t entries_one       '1'          entries "$data/shop.ledger" 2023-03-02 2024-01-01
t month_january     '10000 17000' month "$data/shop.ledger" 2023-01
t month_empty       '0 0'        month "$data/shop.ledger" 2023-07
t richest_account   'bank'       richest "$data/shop.ledger"
