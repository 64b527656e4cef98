#include "parallel/sim/links.h"

#include <algorithm>
#include <cmath>

namespace sluice::parallel {
namespace {

const Link& LinkOf(bool across, const Network& network) {
  return across ? network.across : network.inside;
}

double RateOf(const Link& link, double apart) { return apart > 0 ? apart : link.bytes_per_second; }

double RingSeconds(const GroupShape& group, double bytes, const Link& link, double apart) {
  if (group.size <= 1) return 0;
  return bytes * (group.size - 1) / group.size / RateOf(link, apart) + link.latency;
}

}  // namespace

int GroupShape::ranks_on_node(int ranks_per_node) const {
  return std::max(1, std::min(size, ranks_per_node / std::max(1, stride)));
}

int GroupShape::nodes(int ranks_per_node) const {
  const int on_node = ranks_on_node(ranks_per_node);
  return (size + on_node - 1) / on_node;
}

double ExpectedNodes(int nodes, int experts_per_token, int node_limit) {
  const int reach = node_limit > 0 ? std::min(nodes, node_limit) : nodes;
  if (reach <= 1) return 1;
  // K draws over `reach` nodes: a node is missed with (1 - 1/reach)^K.
  return reach * (1 - std::pow(1 - 1.0 / reach, experts_per_token));
}

ExchangeBytes BytesOf(const ExchangeShape& shape) {
  const int size = shape.group.size;
  if (size <= 1) return {};
  const double tokens = static_cast<double>(shape.tokens), rows = tokens * shape.experts_per_token;
  const int on_node = shape.group.ranks_on_node(shape.ranks_per_node);
  const int nodes = shape.group.nodes(shape.ranks_per_node);
  ExchangeBytes bytes;
  if (shape.kind == ExchangeKind::kFlat) {
    bytes.inside = rows * shape.row_bytes * (on_node - 1) / size;
    bytes.across = rows * shape.row_bytes * (size - on_node) / size;
    return bytes;
  }
  const double reached = ExpectedNodes(nodes, shape.experts_per_token, shape.node_limit);
  // An even choice of nodes takes the own one with reached / nodes.
  bytes.across = tokens * reached * (1.0 - 1.0 / nodes) * shape.row_bytes;
  bytes.inside = rows * shape.row_bytes * (on_node - 1) / on_node;
  return bytes;
}

double ExchangeSeconds(const ExchangeShape& shape, const Network& network) {
  if (shape.group.size <= 1) return 0;
  const ExchangeBytes bytes = BytesOf(shape);
  double seconds = 0;
  if (bytes.inside > 0)
    seconds = bytes.inside / network.inside.bytes_per_second + network.inside.latency;
  if (bytes.across > 0) {
    seconds += bytes.across / network.across.bytes_per_second + network.across.latency;
  }
  return seconds;
}

double ReduceScatterSeconds(const GroupShape& group, double bytes, const Network& network) {
  const Link& link = LinkOf(group.nodes(network.ranks_per_node) > 1, network);
  return RingSeconds(group, bytes, link, link.reduction_rate);
}

double AllGatherSeconds(const GroupShape& group, double bytes, const Network& network) {
  const Link& link = LinkOf(group.nodes(network.ranks_per_node) > 1, network);
  return RingSeconds(group, bytes, link, link.gather_rate);
}

double MessageSeconds(bool across_nodes, double bytes, const Network& network) {
  const Link& link = LinkOf(across_nodes, network);
  return bytes / RateOf(link, link.message_rate);
}

double MessageLatency(bool across_nodes, const Network& network) {
  const Link& link = LinkOf(across_nodes, network);
  return link.message_latency >= 0 ? link.message_latency : link.latency;
}

}  // namespace sluice::parallel
