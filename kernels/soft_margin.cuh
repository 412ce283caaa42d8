// Soft margin, `src/loss/soft_margin.rs`. With y the label as -1 or 1, sp = softplus:
//
//     l = sp(-y x)        dl/dx = -y sigmoid(-y x)
#pragma once
#include "skeleton/elementwise.cuh"

struct SoftMargin : fl::Pointwise {
    static constexpr int BLOCKS_16 = 3;
    NoParams p;

    FL fl::Point eval(float x, float y, float) const {
        const fl::Logistic wrong = fl::logistic(-y * x);
        return {wrong.softplus, -y * wrong.sigmoid};
    }
};
