// Properties that every communicator must have; each check is called by all ranks of the group.
// Inputs are small integers, so that sums are exact in every order and any difference is a bug.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/core/cpu_stream.h"
#include "parallel/comm/communicator.h"

namespace sluice::testing {

using kernels::BFloat16;
using kernels::ConstTensorView;
using kernels::DTypeOf;
using kernels::Stream;
using kernels::TensorView;
using parallel::Communicator;
using parallel::ReduceOp;

// Ugly lengths: nothing, one, primes, around the reduction's inner block (256) and around what
// AllReduce sends in one round (16 KiB over all ranks).
inline const std::vector<int64_t>& UglyLengths() {
  static const std::vector<int64_t> kLengths = {0,   1,   2,    7,    255,  256,  257,
                                                511, 997, 2047, 2048, 4099, 65537};
  return kLengths;
}

template <typename T>
TensorView ViewOf(std::vector<T>& data) {
  return TensorView(data.data(), DTypeOf<T>::kValue, {static_cast<int64_t>(data.size())});
}

template <typename T>
TensorView RowsOf(std::vector<T>& data, int64_t width) {
  return TensorView(data.data(), DTypeOf<T>::kValue,
                    {width == 0 ? 0 : static_cast<int64_t>(data.size()) / width, width});
}

// An integer in [-50, 50] that depends on all three.
inline int64_t ValueAt(int rank, int64_t i, int salt) {
  return static_cast<int64_t>((static_cast<uint64_t>(rank) * 7919 + static_cast<uint64_t>(i) * 31 +
                               static_cast<uint64_t>(salt) * 101) %
                              101) -
         50;
}

template <typename T>
std::vector<T> ValuesOf(int rank, int64_t n, int salt) {
  std::vector<T> values(n);
  for (int64_t i = 0; i < n; ++i) values[i] = static_cast<T>(ValueAt(rank, i, salt));
  return values;
}

inline int64_t Reduced(int num_ranks, int64_t i, int salt, ReduceOp op) {
  int64_t result = ValueAt(0, i, salt);
  for (int p = 1; p < num_ranks; ++p) {
    const int64_t value = ValueAt(p, i, salt);
    if (op == ReduceOp::kSum) result += value;
    if (op == ReduceOp::kMax) result = std::max(result, value);
    if (op == ReduceOp::kMin) result = std::min(result, value);
  }
  return result;
}

// The first index where they differ, -1 if none.
template <typename T>
int64_t FirstDifference(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return static_cast<int64_t>(std::min(a.size(), b.size()));
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(a[i] == b[i])) return static_cast<int64_t>(i);
  }
  return -1;
}

template <typename T>
void CheckAllReduceIsExact(Communicator& group, Stream& stream) {
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin}) {
    for (const int64_t n : UglyLengths()) {
      std::vector<T> data = ValuesOf<T>(group.rank(), n, 1), want(n);
      for (int64_t i = 0; i < n; ++i) want[i] = static_cast<T>(Reduced(group.size(), i, 1, op));
      ASSERT_TRUE(group.AllReduce(ViewOf(data), op, stream).ok());
      ASSERT_EQ(FirstDifference(data, want), -1) << "n " << n << " op " << static_cast<int>(op);
    }
  }
}

// 1 + 2^-30 + ... is not associative in FP32: only ascending rank order gives these bits.
inline void CheckSumsAreInRankOrder(Communicator& group, Stream& stream) {
  for (const int64_t n : {int64_t{3}, int64_t{100003}}) {
    const auto value = [&](int rank, int64_t i) {
      return (1.0f + static_cast<float>(i % 13) * 0.37f) * (rank % 2 == 0 ? 1e4f : 1e-4f) /
             static_cast<float>(rank + 3);
    };
    const int num_ranks = group.size();
    std::vector<float> want(n), data(n), in(n * num_ranks), part(n);
    for (int64_t i = 0; i < n; ++i) {
      want[i] = value(0, i);
      for (int p = 1; p < num_ranks; ++p) want[i] += value(p, i);
      data[i] = value(group.rank(), i);
      for (int p = 0; p < num_ranks; ++p) in[p * n + i] = data[i];
    }
    ASSERT_TRUE(group.AllReduce(ViewOf(data), ReduceOp::kSum, stream).ok());
    EXPECT_EQ(FirstDifference(data, want), -1) << "n " << n;
    ASSERT_TRUE(group.ReduceScatter(ViewOf(in), ViewOf(part), ReduceOp::kSum, stream).ok());
    EXPECT_EQ(FirstDifference(part, want), -1) << "n " << n;
  }
}

template <typename T>
void CheckAllGatherIsExact(Communicator& group, Stream& stream) {
  for (const int64_t n : UglyLengths()) {
    std::vector<T> want, out(n * group.size());
    for (int p = 0; p < group.size(); ++p) {
      for (int64_t i = 0; i < n; ++i) want.push_back(static_cast<T>(ValueAt(p, i, 2)));
    }
    std::vector<T> in = ValuesOf<T>(group.rank(), n, 2);
    ASSERT_TRUE(group.AllGather(ViewOf(in), ViewOf(out), stream).ok());
    ASSERT_EQ(FirstDifference(out, want), -1) << "n " << n;
    // In place.
    std::fill(out.begin(), out.end(), T{});
    std::copy(in.begin(), in.end(), out.begin() + group.rank() * n);
    const TensorView all = ViewOf(out);
    ASSERT_TRUE(group.AllGather(all.Rows(group.rank() * n, n), all, stream).ok());
    ASSERT_EQ(FirstDifference(out, want), -1) << "in place, n " << n;
  }
}

inline void CheckAllGatherKeepsBytes(Communicator& group, Stream& stream) {
  const int64_t n = 10007;  // every bfloat16, NaNs too, is only bits
  std::vector<BFloat16> in(n), out(n * group.size()), want(n * group.size());
  for (int p = 0; p < group.size(); ++p) {
    for (int64_t i = 0; i < n; ++i) {
      want[p * n + i].bits = static_cast<uint16_t>(i * 13 + p);
      if (p == group.rank()) in[i] = want[p * n + i];
    }
  }
  ASSERT_TRUE(group.AllGather(ViewOf(in), ViewOf(out), stream).ok());
  EXPECT_EQ(FirstDifference(out, want), -1);
}

template <typename T>
void CheckReduceScatterIsExact(Communicator& group, Stream& stream) {
  for (const int64_t n : UglyLengths()) {
    const int64_t begin = group.rank() * n;
    std::vector<T> in = ValuesOf<T>(group.rank(), n * group.size(), 3), out(n), want(n);
    for (int64_t i = 0; i < n; ++i) {
      want[i] = static_cast<T>(Reduced(group.size(), begin + i, 3, ReduceOp::kSum));
    }
    ASSERT_TRUE(group.ReduceScatter(ViewOf(in), ViewOf(out), ReduceOp::kSum, stream).ok());
    ASSERT_EQ(FirstDifference(out, want), -1) << "n " << n;
    const TensorView all = ViewOf(in);
    ASSERT_TRUE(group.ReduceScatter(all, all.Rows(begin, n), ReduceOp::kSum, stream).ok());
    const std::vector<T> mine(in.begin() + begin, in.begin() + begin + n);
    ASSERT_EQ(FirstDifference(mine, want), -1) << "in place, n " << n;
  }
}

// Rank p sends (p + 2 q) % 5 rows to rank q, so some pairs exchange nothing and counts differ.
template <typename T>
void CheckAllToAllIsExact(Communicator& group, Stream& stream) {
  const auto rows_between = [](int from, int to) { return int64_t{(from + 2 * to) % 5}; };
  for (const int64_t width : {int64_t{1}, int64_t{17}, int64_t{1024}}) {
    std::vector<int64_t> send_rows, receive_rows;
    std::vector<T> in, want;
    for (int p = 0; p < group.size(); ++p) {
      send_rows.push_back(rows_between(group.rank(), p));
      receive_rows.push_back(rows_between(p, group.rank()));
      for (int64_t i = 0; i < send_rows[p] * width; ++i) {
        in.push_back(static_cast<T>(ValueAt(group.rank() * 8 + p, i, 4)));
      }
      for (int64_t i = 0; i < receive_rows[p] * width; ++i) {
        want.push_back(static_cast<T>(ValueAt(p * 8 + group.rank(), i, 4)));
      }
    }
    std::vector<T> out(want.size());
    const absl::Status status =
        group.AllToAll(RowsOf(in, width), send_rows, RowsOf(out, width), receive_rows, stream);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(FirstDifference(out, want), -1) << "width " << width;
  }
}

// All rows go to rank 0; everybody else receives none, and most send none in the second call.
inline void CheckAllToAllToOneRank(Communicator& group, Stream& stream) {
  const int64_t width = 3, count = 5;
  for (const bool only_last_sends : {false, true}) {
    const auto sent_by = [&](int p) {
      return !only_last_sends || p == group.size() - 1 ? count : int64_t{0};
    };
    std::vector<int64_t> send_rows(group.size(), 0), receive_rows(group.size(), 0);
    send_rows[0] = sent_by(group.rank());
    std::vector<float> in = ValuesOf<float>(group.rank(), send_rows[0] * width, 5), want;
    for (int p = 0; group.rank() == 0 && p < group.size(); ++p) {
      receive_rows[p] = sent_by(p);
      const auto from = ValuesOf<float>(p, receive_rows[p] * width, 5);
      want.insert(want.end(), from.begin(), from.end());
    }
    std::vector<float> out(want.size());
    ASSERT_TRUE(
        group.AllToAll(RowsOf(in, width), send_rows, RowsOf(out, width), receive_rows, stream)
            .ok());
    EXPECT_EQ(FirstDifference(out, want), -1);
  }
}

inline void CheckBroadcastFromEachRoot(Communicator& group, Stream& stream) {
  for (int root = 0; root < group.size(); ++root) {
    for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{50021}}) {
      std::vector<int32_t> data = ValuesOf<int32_t>(group.rank(), n, 6);
      ASSERT_TRUE(group.Broadcast(ViewOf(data), root, stream).ok());
      ASSERT_EQ(FirstDifference(data, ValuesOf<int32_t>(root, n, 6)), -1) << "root " << root;
    }
  }
}

// Everybody sends to everybody, itself too, before anybody receives: Send may not wait for a
// receiver. Per (peer, tag) messages keep their order; tags are taken in another order than sent.
inline void CheckManySendsInFlight(Communicator& group, Stream& stream) {
  const int num_messages = 20;
  const auto length = [](int m) { return int64_t{m} * m * 100; };  // 0 to 144 KB
  for (int m = 0; m < num_messages; ++m) {
    for (int p = 0; p < group.size(); ++p) {
      std::vector<float> data = ValuesOf<float>(group.rank() * 16 + p, length(m), m);
      ASSERT_TRUE(group.Send(ViewOf(data), p, m % 2, stream).ok());
      std::fill(data.begin(), data.end(), -1.0f);  // Send has copied
    }
  }
  for (const int tag : {1, 0}) {
    for (int m = tag; m < num_messages; m += 2) {
      for (int p = 0; p < group.size(); ++p) {
        std::vector<float> data(length(m));
        ASSERT_TRUE(group.Receive(ViewOf(data), p, tag, stream).ok());
        const auto want = ValuesOf<float>(p * 16 + group.rank(), length(m), m);
        ASSERT_EQ(FirstDifference(data, want), -1) << "message " << m << " from " << p;
      }
    }
  }
}

inline void CheckBytes(Communicator& group) {
  const std::string mine(static_cast<size_t>(group.rank()) * 1000,
                         static_cast<char>('a' + group.rank()));
  auto all = group.GatherBytes(mine);
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->size(), group.rank() == 0 ? group.size() : 0);
  for (size_t p = 0; p < all->size(); ++p) {
    EXPECT_EQ((*all)[p], std::string(p * 1000, static_cast<char>('a' + p)));
  }
  for (int root = 0; root < group.size(); ++root) {
    auto text = group.BroadcastBytes(group.rank() == root ? std::string("\0x", 2) : "no", root);
    ASSERT_TRUE(text.ok());
    EXPECT_EQ(*text, std::string("\0x", 2));
    EXPECT_EQ(group.BroadcastBytes("", root).value(), "");
  }
}

// Odd and even ranks part, in descending order; the parts work at the same time as the whole.
inline void CheckSplit(Communicator& group, Stream& stream) {
  auto split = group.Split(group.rank() % 2, -group.rank());
  ASSERT_TRUE(split.ok());
  Communicator& part = **split;
  const int same_colour = (group.size() - group.rank() % 2 + 1) / 2;
  ASSERT_EQ(part.size(), same_colour);
  EXPECT_EQ(part.rank(), part.size() - 1 - group.rank() / 2);
  std::vector<int64_t> sum = {1 + group.rank()};
  ASSERT_TRUE(part.AllReduce(ViewOf(sum), ReduceOp::kSum, stream).ok());
  int64_t want = 0;
  for (int p = group.rank() % 2; p < group.size(); p += 2) want += 1 + p;
  EXPECT_EQ(sum[0], want);
  auto alone = part.Split(part.rank(), 0);
  ASSERT_TRUE(alone.ok());
  EXPECT_EQ((*alone)->size(), 1);
  EXPECT_TRUE(group.Barrier().ok());
}

inline void CheckCommunicator(Communicator& group, Stream& stream) {
  CheckAllReduceIsExact<float>(group, stream);
  CheckAllReduceIsExact<double>(group, stream);
  CheckAllReduceIsExact<int32_t>(group, stream);
  CheckAllReduceIsExact<int64_t>(group, stream);
  CheckSumsAreInRankOrder(group, stream);
  CheckAllGatherIsExact<float>(group, stream);
  CheckAllGatherIsExact<uint8_t>(group, stream);
  CheckAllGatherKeepsBytes(group, stream);
  CheckReduceScatterIsExact<float>(group, stream);
  CheckReduceScatterIsExact<double>(group, stream);
  CheckReduceScatterIsExact<int64_t>(group, stream);
  CheckAllToAllIsExact<float>(group, stream);
  CheckAllToAllIsExact<int32_t>(group, stream);
  CheckAllToAllToOneRank(group, stream);
  CheckBroadcastFromEachRoot(group, stream);
  CheckManySendsInFlight(group, stream);
  CheckBytes(group);
  CheckSplit(group, stream);
}

}  // namespace sluice::testing
