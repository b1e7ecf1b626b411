#pragma once

// Ordered sets and maps in one piece of memory, for small things that come in the order of their
// keys, or nearly, and go soon: mostly the first, sometimes another one. A tree would allocate and
// free a node for each, eight times a message.
//
// To insert or erase moves what lies towards the nearer end: nothing for the first and the last, at
// most half of all. So not for what comes in any order and may be many, nor for a run that goes in
// somewhere in the middle. Room is given back as it empties. Iterators are good until the next
// change.

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

namespace swarm::mailbox {

template <typename Key, typename Item, const Key& (*key_of)(const Item&)>
class Ordered {
 public:
  Ordered() = default;
  Ordered(const Ordered&) = default;
  Ordered& operator=(const Ordered&) = default;
  Ordered(Ordered&& other) noexcept
      : items_(std::exchange(other.items_, {})), first_(std::exchange(other.first_, 0)) {}
  Ordered& operator=(Ordered&& other) noexcept {
    items_ = std::exchange(other.items_, {});
    first_ = std::exchange(other.first_, 0);
    return *this;
  }

  [[nodiscard]] Item* begin() { return items_.data() + first_; }
  [[nodiscard]] Item* end() { return items_.data() + items_.size(); }
  [[nodiscard]] const Item* begin() const { return items_.data() + first_; }
  [[nodiscard]] const Item* end() const { return items_.data() + items_.size(); }
  [[nodiscard]] std::size_t size() const { return items_.size() - first_; }
  [[nodiscard]] std::size_t capacity() const { return items_.capacity(); }
  [[nodiscard]] bool empty() const { return size() == 0; }

  [[nodiscard]] const Item* find(const Key& key) const {
    const Item* at = place_of(key);
    return at != end() && key_of(*at) == key ? at : end();
  }
  [[nodiscard]] std::size_t count(const Key& key) const { return find(key) == end() ? 0 : 1; }

  std::size_t erase(const Key& key) {
    const Item* found = find(key);
    if (found == end()) return 0;
    Item* at = begin() + (found - begin());
    if (at - begin() < end() - at) {
      std::move_backward(begin(), at, at + 1);
      ++first_;
    } else {
      std::move(at + 1, end(), at);
      items_.pop_back();
    }
    if (items_.capacity() > kKeptItems && size() < items_.capacity() / 8) {
      std::vector<Item> rest;
      rest.reserve(2 * size());
      rest.assign(begin(), end());
      items_ = std::move(rest);
      first_ = 0;
    } else if (empty()) {
      items_.clear();
      first_ = 0;
    }
    return 1;
  }

 protected:
  Item& put(const Item& item) {  // the one that is there already, or this
    const Key& key = key_of(item);
    auto at = static_cast<std::size_t>(place_of(key) - items_.data());
    if (at < items_.size() && key_of(items_[at]) == key) return items_[at];
    if (items_.size() - at <= at - first_) {  // towards the back
      if (items_.capacity() == 0) items_.reserve(kFirstItems);
      if (items_.size() == items_.capacity() && first_ > items_.size() / 2) {
        items_.erase(items_.begin(), items_.begin() + static_cast<std::ptrdiff_t>(first_));
        at -= std::exchange(first_, 0);
      }
      return *items_.insert(items_.begin() + static_cast<std::ptrdiff_t>(at), item);
    }
    if (first_ == 0) {  // room for as many more as pay for making it
      const std::size_t room = items_.size() / 4 + kFirstItems;
      items_.insert(items_.begin(), room, Item{});
      first_ = room;
      at += room;
    }
    std::move(items_.data() + first_, items_.data() + at, items_.data() + first_ - 1);
    --first_;
    return items_[at - 1] = item;
  }

 private:
  static_assert(std::is_trivially_destructible_v<Item>);
  static constexpr std::size_t kFirstItems = 8, kKeptItems = 16;  // room that an empty one has

  [[nodiscard]] const Item* place_of(const Key& key) const {  // where it is, or belongs
    if (empty() || key_of(items_.back()) < key) return end();
    if (!(key_of(*begin()) < key)) return begin();
    return std::lower_bound(begin(), end(), key,
                            [](const Item& item, const Key& k) { return key_of(item) < k; });
  }

  std::vector<Item> items_;  // from first_ on; what stands before it has gone
  std::size_t first_ = 0;
};

namespace ordered {
template <typename Key>
const Key& self(const Key& key) {
  return key;
}
template <typename Key, typename Value>
const Key& first(const std::pair<Key, Value>& item) {
  return item.first;
}
}  // namespace ordered

template <typename Key>
class OrderedSet : public Ordered<Key, Key, ordered::self<Key>> {
 public:
  void insert(const Key& key) { this->put(key); }
};

template <typename Key, typename Value>
class OrderedMap : public Ordered<Key, std::pair<Key, Value>, ordered::first<Key, Value>> {
 public:
  Value& operator[](const Key& key) { return this->put({key, Value()}).second; }
};

}  // namespace swarm::mailbox
