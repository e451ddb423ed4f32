// Philox4x32-10 against the known answers published with Random123 (kat_vectors), and the convention of philox.hpp.
#include "check.hpp"
#include "runtime/philox.hpp"

namespace {

using fastnn::runtime::philox4x32;
using fastnn::runtime::philox_block;
using fastnn::runtime::PhiloxBlock;

struct KnownAnswer {
  PhiloxBlock counter;
  uint32_t key0, key1;
  PhiloxBlock answer;
};
constexpr KnownAnswer kKnownAnswers[] = {
    {{{0, 0, 0, 0}}, 0, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
    {{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
     0xffffffff,
     0xffffffff,
     {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
    {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
     0xa4093822,
     0x299f31d0,
     {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
};

bool equal(const PhiloxBlock& a, const PhiloxBlock& b) {
  return a.word[0] == b.word[0] && a.word[1] == b.word[1] && a.word[2] == b.word[2] && a.word[3] == b.word[3];
}

void known_answers() {
  for (const KnownAnswer& known : kKnownAnswers) {
    const PhiloxBlock got = philox4x32(known.counter, known.key0, known.key1);
    CHECK(equal(got, known.answer), "got %08x %08x %08x %08x", got.word[0], got.word[1], got.word[2], got.word[3]);
  }
}

void words_of_seed_stream_and_block() {
  // The third known answer again: low words first, the block before the stream.
  const PhiloxBlock got = philox_block(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88);
  CHECK(equal(got, kKnownAnswers[2].answer), "seed, stream and block fill key and counter in another order");
}

}  // namespace

int main() {
  return test::run(
      {{"known_answers", known_answers}, {"words_of_seed_stream_and_block", words_of_seed_stream_and_block}});
}
