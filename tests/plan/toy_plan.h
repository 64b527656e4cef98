// A model and a machine of round numbers, whose times can be written down.
#pragma once

#include "parallel/plan/plan.h"

namespace sluice::parallel::testing {

// One product of 2 H^2 a token and layer, nothing else: times can be written down.
inline ModelWork ToyModel(int layers, int experts) {
  ModelWork model;
  LayerWork layer;
  layer.attention.product_flops = 2e6;
  layer.attention.weights = 1e6;
  layer.dense_parameters = 1e6;
  layer.kept.rest = 1000;
  if (experts > 0) {
    layer.is_moe = true;
    layer.expert.product_flops = 3e6;
    layer.expert.weights = layer.expert_parameters = 1.5e6;
    layer.kept_row.rest = 500;
  }
  model.layers.assign(layers, layer);
  model.hidden = 1000;
  model.sequence_length = 100;
  model.experts = experts;
  model.experts_per_token = experts > 0 ? 2 : 0;
  model.flops_per_token = 6e6 * layers;
  return model;
}

inline Cluster ToyCluster(int nodes) {
  Cluster cluster;
  cluster.nodes = nodes;
  cluster.network = {4, {1e9, 0}, {1e8, 0}};
  cluster.device.peak_bf16 = 1e12;
  cluster.device.memory_bytes_per_second = 1e15;  // memory costs next to nothing
  cluster.device.memory_bytes = 1e9;
  cluster.dollars_per_device_hour = 2;
  return cluster;
}

inline PlanRequest Toy(int layers, int experts, int nodes, int batch) {
  PlanRequest request;
  request.model = ToyModel(layers, experts);
  request.cluster = ToyCluster(nodes);
  request.global_batch = batch;
  request.tokens = 1e9;
  return request;
}

}  // namespace sluice::parallel::testing
