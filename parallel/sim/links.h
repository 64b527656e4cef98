// Volume and time of messages and collectives on a described network.   T tokens of a rank, H
// hidden size, K experts a token, R ranks, N nodes; bytes and seconds
#pragma once

#include <cstdint>

namespace sluice::parallel {

struct Link {
  double bytes_per_second = 0;  // of one rank, one direction, as libraries reach it
  double latency = 0;           // seconds a message takes beside its bytes
  // Where they were measured apart; 0: bytes_per_second, negative latency: latency.
  double reduction_rate = 0, gather_rate = 0, message_rate = 0;
  double message_latency = -1;
};

struct Network {
  int ranks_per_node = 8;
  Link inside, across;  // NVLink or shared memory; InfiniBand, a share for each rank
};

// Ranks of a group of `size` that are `stride` apart in the world.
struct GroupShape {
  int size = 1, stride = 1;
  int ranks_on_node(int ranks_per_node) const;
  int nodes(int ranks_per_node) const;
};

// The expected number of distinct nodes that a token's K experts lie on, its own included, when
// groups of experts are limited to `node_limit` nodes (0: not limited) and experts spread evenly.
double ExpectedNodes(int nodes, int experts_per_token, int node_limit);

// Bytes a rank sends for its T tokens, one direction of one exchange.
struct ExchangeBytes {
  double inside = 0, across = 0;
};

enum class ExchangeKind : uint8_t {
  kFlat,         // a row to each expert's rank, as parallel/expert sends it
  kHierarchical  // to each node once, then inside it (DeepSeek-V3 report section 3.2.2; DeepEP)
};

struct ExchangeShape {
  GroupShape group;
  int ranks_per_node = 8;
  int64_t tokens = 0;
  int experts_per_token = 1, node_limit = 0;
  double row_bytes = 0;  // FP8 dispatch of DeepSeek-V3: 7168 + 56 * 4; BF16 combine: 14336
  ExchangeKind kind = ExchangeKind::kHierarchical;
};

// kFlat: T * K rows, spread evenly over the group's ranks; those that stay on the rank cost
// nothing. kHierarchical: T * (nodes - 1 of them own) rows across, and T * K rows inside, less what
// stays on the rank.
ExchangeBytes BytesOf(const ExchangeShape& shape);

// A row's hops come one after the other, across nodes and then inside: the two times add up. For
// DeepSeek-V3's layer (4096 tokens, 64 ranks) this gives 3.6 and 7.2 ms with 40 and 160 GB/s; the
// kernels in its published profile take 4.4 and 6.2 on average.
double ExchangeSeconds(const ExchangeShape& shape, const Network& network);

// Ring algorithms: (R - 1) / R of `bytes` (the whole array) through the slowest link. A group that
// spans nodes goes through the node's links together: a rank has its own share.
double ReduceScatterSeconds(const GroupShape& group, double bytes, const Network& network);
double AllGatherSeconds(const GroupShape& group, double bytes, const Network& network);
double MessageSeconds(bool across_nodes, double bytes, const Network& network);  // without latency
double MessageLatency(bool across_nodes, const Network& network);

}  // namespace sluice::parallel
