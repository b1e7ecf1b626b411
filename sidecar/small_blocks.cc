// operator new and delete of the sidecar: small blocks wait in lists by size for the next one who
// needs such, instead of going through malloc's bins. A message allocates very many of them, and a
// burst of messages has more at once than malloc's own cache of seven a size.
//
// Every block is one of malloc's: whoever frees it without saying its size gives it back there.
// Threads: each has lists of its own; a block may end in another's. What a thread has in its lists
// when it ends is lost: those here live as long as the process.
#include <array>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

constexpr std::size_t kStepBytes = 16, kMaxSmallBytes = 512;
constexpr std::size_t kMaxKeptBytes = 1U << 20U;  // in the lists of a thread

struct Block {
  Block* next;
};
struct Lists {
  std::array<Block*, kMaxSmallBytes / kStepBytes + 1> by_size;  // in steps, rounded up
  std::size_t kept;
};
constinit thread_local Lists lists{};

constexpr std::size_t steps_of(std::size_t bytes) { return (bytes + kStepBytes - 1) / kStepBytes; }

}  // namespace

void* operator new(std::size_t bytes) {
  const bool small = bytes <= kMaxSmallBytes;
  if (small) {
    const auto steps = steps_of(bytes);
    if (Block* const block = lists.by_size[steps]; block != nullptr) {
      lists.by_size[steps] = block->next;
      lists.kept -= steps * kStepBytes;
      return block;
    }
    bytes = (steps == 0 ? 1 : steps) * kStepBytes;
  }
  if (void* const fresh = std::malloc(bytes); fresh != nullptr) return fresh;
  throw std::bad_alloc();
}

void operator delete(void* block, std::size_t bytes) noexcept {
  const auto steps = steps_of(bytes);
  if (block == nullptr || steps == 0 || bytes > kMaxSmallBytes || lists.kept >= kMaxKeptBytes)
    return std::free(block);
  lists.by_size[steps] = new (block) Block{lists.by_size[steps]};
  lists.kept += steps * kStepBytes;
}

void operator delete(void* block) noexcept { std::free(block); }
