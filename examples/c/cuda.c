// Huber on a GPU from C, on a stream of one's own: the call is enqueued between the copies, and nothing waits but the last line.
//
//     cc examples/c/cuda.c $(pkg-config --cflags --libs fused_loss) -I "$CUDA_HOME/include" -lcuda -o cuda && ./cuda
#include <cuda.h>
#include <fused_loss.h>
#include <stdio.h>
#include <stdlib.h>

static void driver(CUresult code) {
    if (code != CUDA_SUCCESS) fprintf(stderr, "CUDA: error %d\n", code), exit(1);
}

static void loss(fl_status status) {
    if (status != FL_OK) fprintf(stderr, "%s: %s\n", fl_status_name(status), fl_last_error()), exit(1);
}

int main(void) {
    CUdevice gpu;
    CUcontext context;
    CUstream stream;
    driver(cuInit(0));
    driver(cuDeviceGet(&gpu, 0));
    driver(cuDevicePrimaryCtxRetain(&context, gpu));
    driver(cuCtxSetCurrent(context));
    driver(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));

    fl_handle* cuda;
    loss(fl_cuda(0, stream, &cuda));
    printf("%s\n", fl_describe(cuda));

    const float input[3] = {0.5f, 3.0f, -4.0f}, target[3] = {0.0f};
    float value, grad[3];
    CUdeviceptr x, t, v, g;
    driver(cuMemAlloc(&x, sizeof input));
    driver(cuMemAlloc(&t, sizeof target));
    driver(cuMemAlloc(&v, sizeof value));
    driver(cuMemAlloc(&g, sizeof grad));
    driver(cuMemcpyHtoDAsync(x, input, sizeof input, stream));
    driver(cuMemcpyHtoDAsync(t, target, sizeof target, stream));

    fl_call call;
    fl_call_init(&call);
    call.reduction = FL_SUM;
    call.input = (fl_in){(void*)x, 3};
    call.target = (fl_in){(void*)t, 3};
    call.value = (fl_out){(void*)v, 1};
    call.grad_input = (fl_out){(void*)g, 3};
    loss(fl_huber(cuda, NULL, &call));  // NULL: the default options, delta = 1

    driver(cuMemcpyDtoHAsync(&value, v, sizeof value, stream));
    driver(cuMemcpyDtoHAsync(grad, g, sizeof grad, stream));
    driver(cuStreamSynchronize(stream));
    printf("loss %.3f, gradient %.1f %.1f %.1f\n", value, grad[0], grad[1], grad[2]);

    // Memory of the host would end the context; it is refused.
    call.input.data = input;
    const fl_status status = fl_huber(cuda, NULL, &call);
    printf("%s: %s\n", fl_status_name(status), fl_last_error());

    fl_destroy(cuda);
    driver(cuMemFree(x)), driver(cuMemFree(t)), driver(cuMemFree(v)), driver(cuMemFree(g));
    driver(cuStreamDestroy(stream));
    driver(cuDevicePrimaryCtxRelease(gpu));
    return value == 6.125f && grad[0] == 0.5f && grad[1] == 1.0f && grad[2] == -1.0f && status == FL_ERROR_DEVICE ? 0 : 1;
}
