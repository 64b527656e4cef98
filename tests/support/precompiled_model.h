// Beside precompiled.h: what tests of whole models and their checkpoints include most.
#pragma once

#include <google/protobuf/text_format.h>

#include "checkpoints/manifest.h"
#include "tests/support/precompiled.h"
#include "trainer/loop/rank_model.h"
#include "trainer/loop/run_config.pb.h"
#include "trainer/loop/run_state.h"
