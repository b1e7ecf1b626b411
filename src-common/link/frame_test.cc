#include "link/frame.h"

#include <gtest/gtest.h>

#include <random>

namespace swarm::link {
namespace {

TEST(Frame, RoundTripsInPieces) {
  std::string bytes;
  append_frame(bytes, FrameType::kMessage, "hello");
  append_frame(bytes, FrameType::kPing, "");
  FrameReader reader;
  std::vector<Frame> frames;
  for (char c : bytes) {
    reader.add({&c, 1});
    auto frame = reader.next();
    ASSERT_TRUE(frame);
    if (*frame) frames.push_back(**frame);
  }
  ASSERT_EQ(frames.size(), 2U);
  EXPECT_EQ(frames[0].type, FrameType::kMessage);
  EXPECT_EQ(frames[0].payload, "hello");
  EXPECT_EQ(frames[1].type, FrameType::kPing);
}

TEST(Frame, EveryFlippedBitIsFound) {
  std::string bytes;
  append_frame(bytes, FrameType::kMessage, "some payload");
  for (std::size_t i = 0; i < bytes.size() * 8; ++i) {
    std::string bad = bytes;
    bad[i / 8] = static_cast<char>(bad[i / 8] ^ (1 << (i % 8)));
    FrameReader reader;
    reader.add(bad);
    const auto frame = reader.next();
    EXPECT_FALSE(frame.ok() && frame->has_value()) << "bit " << i;
  }
}

TEST(Frame, LengthIsRefusedBeforeItsBytesCome) {
  FrameReader reader;
  reader.add(std::string("\xff\xff\xff\x7f\x01\x14\0\0\0\0\0\0", 12));
  EXPECT_EQ(reader.next().error().code, Code::kInvalid);
}

TEST(Frame, RandomBytesNeverCrash) {
  std::mt19937 random(7);
  for (int run = 0; run < 20000; ++run) {
    std::string bytes(random() % 64, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    FrameReader reader;
    reader.add(bytes);
    for (int i = 0; i < 4; ++i) {
      auto frame = reader.next();
      if (!frame || !*frame) break;
    }
    PayloadReader payload(bytes);
    while (payload.ok() && !payload.done()) (void)payload.text();
  }
}

}  // namespace
}  // namespace swarm::link
