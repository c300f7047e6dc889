/* A driver without a card: what FFmpeg asks of libcuda and libnvcuvid, in memory of the host.

   Each call that tells something is written to the file $CARD_LOG. "Decoded" pictures are flat: luma
   is 100 for the first, 101 for the second and so on, chroma 128. Built twice, as both libraries.
   $CARD_FULL makes every context fail; $CARD_ACTIVE is a primary context that torch made before. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void note(const char *format, ...) {
    const char *path = getenv("CARD_LOG");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (!file) return;
    va_list values;
    va_start(values, format);
    vfprintf(file, format, values);
    va_end(values);
    fclose(file);
}

#define NOTHING(name) int name(void) { return 0; }

#ifdef CUDA
static int context;
int cuInit(unsigned flags) { (void)flags; return 0; }
int cuDriverGetVersion(int *version) { *version = 12080; return 0; }
int cuDeviceGetCount(int *count) { *count = 4; return 0; }
int cuDeviceGet(int *device, int number) { note("device %d\n", number); *device = number; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    (void)which, (void)device;
    *value = 512;
    return 0;
}
int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, length, "card %d", device);
    return 0;
}
int cuDeviceComputeCapability(int *major, int *minor, int device) {
    (void)device;
    *major = 8, *minor = 0;
    return 0;
}
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    (void)device;
    *active = getenv("CARD_ACTIVE") != NULL;
    *flags = 0;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **made, int device) {
    note("primary context of %d\n", device);
    *made = &context;
    return getenv("CARD_FULL") ? 2 : 0;
}
int cuCtxCreate_v2(void **made, unsigned flags, int device) {
    (void)flags;
    note("own context of %d\n", device);
    *made = &context;
    return getenv("CARD_FULL") ? 2 : 0;
}
int cuCtxPopCurrent_v2(void **current) { *current = &context; return 0; }
int cuCtxGetCurrent(void **current) { *current = &context; return 0; }
int cuMemAlloc_v2(uint64_t *made, size_t size) { *made = (uint64_t)malloc(size); return 0; }
int cuMemFree_v2(uint64_t memory) { free((void *)memory); return 0; }
int cuMemAllocPitch_v2(uint64_t *made, size_t *pitch, size_t width, size_t height, unsigned unit) {
    (void)unit;
    *pitch = (width + 511) / 512 * 512;
    return cuMemAlloc_v2(made, *pitch * height);
}
typedef struct {
    size_t x, y;
    int kind;
    void *host;
    uint64_t device;
    void *array;
    size_t pitch;
} End;
typedef struct {
    End from, to;
    size_t width, height;
} Copy;
static char *start(const End *end) {
    return (end->kind == 1 ? (char *)end->host : (char *)end->device) + end->y * end->pitch + end->x;
}
int cuMemcpy2DAsync_v2(const Copy *copy, void *stream) {
    (void)stream;
    for (size_t row = 0; row < copy->height; row++)
        memcpy(start(&copy->to) + row * copy->to.pitch, start(&copy->from) + row * copy->from.pitch,
               copy->width);
    return 0;
}
int cuMemcpy2D_v2(const Copy *copy) { return cuMemcpy2DAsync_v2(copy, NULL); }
int cuGetErrorName(int error, const char **name) { (void)error; *name = "CARD_ERROR"; return 0; }
int cuGetErrorString(int error, const char **text) { (void)error; *text = "no"; return 0; }
#define NAMES(X) \
    X(cuCtxSetLimit) X(cuCtxPushCurrent_v2) X(cuCtxDestroy_v2) X(cuCtxGetDevice) \
    X(cuDeviceGetByPCIBusId) X(cuDeviceGetPCIBusId) X(cuDeviceGetUuid) X(cuDeviceGetUuid_v2) \
    X(cuDeviceGetLuid) X(cuDevicePrimaryCtxRelease) X(cuDevicePrimaryCtxSetFlags) \
    X(cuDevicePrimaryCtxReset) X(cuStreamCreate) X(cuStreamQuery) X(cuStreamSynchronize) \
    X(cuStreamDestroy_v2) X(cuStreamAddCallback) X(cuStreamWaitEvent) X(cuEventCreate) \
    X(cuEventDestroy_v2) X(cuEventSynchronize) X(cuEventQuery) X(cuEventRecord) X(cuLaunchKernel) \
    X(cuLinkCreate) X(cuLinkAddData) X(cuLinkComplete) X(cuLinkDestroy) X(cuModuleLoadData) \
    X(cuModuleUnload) X(cuModuleGetFunction) X(cuModuleGetGlobal) X(cuTexObjectCreate) \
    X(cuTexObjectDestroy) X(cuGLGetDevices_v2) X(cuGraphicsGLRegisterImage) \
    X(cuGraphicsUnregisterResource) X(cuGraphicsMapResources) X(cuGraphicsUnmapResources) \
    X(cuGraphicsSubResourceGetMappedArray) X(cuGraphicsResourceGetMappedPointer_v2) \
    X(cuImportExternalMemory) X(cuDestroyExternalMemory) X(cuExternalMemoryGetMappedBuffer) \
    X(cuExternalMemoryGetMappedMipmappedArray) X(cuMipmappedArrayDestroy) \
    X(cuMipmappedArrayGetLevel) X(cuImportExternalSemaphore) X(cuDestroyExternalSemaphore) \
    X(cuSignalExternalSemaphoresAsync) X(cuWaitExternalSemaphoresAsync) X(cuArrayCreate_v2) \
    X(cuArray3DCreate_v2) X(cuArrayDestroy) X(cuEGLStreamProducerConnect) \
    X(cuEGLStreamProducerDisconnect) X(cuEGLStreamConsumerDisconnect) \
    X(cuEGLStreamProducerPresentFrame) X(cuEGLStreamProducerReturnFrame) X(cuMemAllocManaged) \
    X(cuMemsetD8Async) X(cuMemcpy) X(cuMemcpyAsync) X(cuMemcpyHtoD_v2) X(cuMemcpyHtoDAsync_v2) \
    X(cuMemcpyDtoH_v2) X(cuMemcpyDtoHAsync_v2) X(cuMemcpyDtoD_v2) X(cuMemcpyDtoDAsync_v2)
NAMES(NOTHING)
#else
typedef struct {
    int codec, chroma;
    unsigned depth_minus_8, reserved[3];
    unsigned char is_supported, engines;
    unsigned short formats;
    unsigned most_width, most_height, most_blocks;
    unsigned short least_width, least_height;
} Caps;
typedef struct {
    unsigned long width, height, surfaces;
    int codec, chroma;
    unsigned long flags, depth_minus_8, intra, most_width, most_height, reserved;
    short area[4];
    int format, deinterlace;
    unsigned long target_width, target_height, outputs;
} Create;
static unsigned long pitch, lines;
static int pictures, decoded;
int cuvidGetDecoderCaps(Caps *caps) {
    caps->is_supported = !getenv("CARD_OLD");
    caps->formats = 15;
    caps->most_width = caps->most_height = 8192;
    caps->most_blocks = 1 << 20;
    caps->least_width = caps->least_height = 16;
    return 0;
}
int cuvidCreateDecoder(void **made, Create *create) {
    note("surfaces %lu\n", create->surfaces);
    if (create->surfaces > 32) return 1;
    pitch = (create->target_width * (create->depth_minus_8 ? 2 : 1) + 511) / 512 * 512;
    lines = create->target_height;
    *made = &pitch;
    return 0;
}
int cuvidDecodePicture(void *decoder, void *picture) {
    (void)decoder, (void)picture;
    const char *last = getenv("CARD_LASTS");
    return last && decoded++ >= atoi(last) ? 700 : 0;
}
int cuvidMapVideoFrame64(void *decoder, int index, uint64_t *made, unsigned *row, void *params) {
    (void)decoder, (void)index, (void)params;
    unsigned char *memory = malloc(pitch * lines * 3 / 2 + pitch);
    memset(memory, 128, pitch * lines * 3 / 2 + pitch);
    memset(memory, 100 + pictures++, pitch * lines);
    *made = (uint64_t)memory;
    *row = pitch;
    return 0;
}
int cuvidUnmapVideoFrame64(void *decoder, uint64_t memory) {
    (void)decoder;
    free((void *)memory);
    return 0;
}
#define NAMES(X) \
    X(cuvidDestroyDecoder) X(cuvidGetDecodeStatus) X(cuvidReconfigureDecoder) X(cuvidCtxLockCreate) \
    X(cuvidCtxLockDestroy) X(cuvidCtxLock) X(cuvidCtxUnlock) X(cuvidCreateVideoSource) \
    X(cuvidCreateVideoSourceW) X(cuvidDestroyVideoSource) X(cuvidSetVideoSourceState) \
    X(cuvidGetVideoSourceState) X(cuvidGetSourceVideoFormat) X(cuvidGetSourceAudioFormat) \
    X(cuvidCreateVideoParser) X(cuvidParseVideoData) X(cuvidDestroyVideoParser)
NAMES(NOTHING)
#endif
