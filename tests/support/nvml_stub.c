/* A libnvidia-ml.so.1 that plays GPUs. What they say is read anew for each call from the file that LLMGATE_NVML_STUB names:

     - count 2
     0 name NVIDIA H100 80GB HBM3
     0 temperature 61
     0:1 uuid MIG-5678

   A line is a GPU (or GPU:INSTANCE, or - for all of it), a key and a value. What is not there is not supported; a GPU with
   the key `lost` has fallen off the bus, one with `forbidden` is not this process's to look at. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NOT_SUPPORTED = 3, TIMEOUT = 10, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, LOST = 15 };

typedef unsigned int uint;
typedef unsigned long long ull;
typedef unsigned long handle; /* 1000 × (GPU + 1), + instance + 1 */

static int find(const char *who, const char *key, char *value, size_t size) {
    const char *path = getenv("LLMGATE_NVML_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512], its[32], name[64];
    int found = 0, at;
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "%31s %63s %n", its, name, &at) == 2 && !strcmp(its, who) && !strcmp(name, key)) {
            snprintf(value, size, "%s", line + at);
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static void who(handle of, char *text) {
    if (of % 1000) sprintf(text, "%lu:%lu", of / 1000 - 1, of % 1000 - 1);
    else sprintf(text, "%lu", of / 1000 - 1);
}

static int text_of(handle of, const char *key, char *value, size_t size) {
    char its[32], whole[32], nothing[8];
    who(of, its);
    who(of / 1000 * 1000, whole);
    if (find(whole, "lost", nothing, sizeof nothing)) return LOST;
    if (find(whole, "forbidden", nothing, sizeof nothing)) return NO_PERMISSION;
    return find(its, key, value, size) ? OK : NOT_SUPPORTED;
}

static int number_of(handle of, const char *key, double *value) {
    char text[64];
    int status = text_of(of, key, text, sizeof text);
    if (status == OK) *value = atof(text);
    return status;
}

static int uint_of(handle of, const char *key, uint *value) {
    double number;
    int status = number_of(of, key, &number);
    if (status == OK) *value = (uint)number;
    return status;
}

static int ull_of(handle of, const char *key, ull *value) {
    double number;
    int status = number_of(of, key, &number);
    if (status == OK) *value = (ull)number;
    return status;
}

int nvmlInitWithFlags(uint flags) {
    char text[64];
    return find("-", "count", text, sizeof text) ? OK : DRIVER_NOT_LOADED;
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int status) {
    return status == LOST ? "GPU is lost" : status == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Not Supported";
}
int nvmlSystemGetDriverVersion(char *text, uint size) { return find("-", "driver", text, size) ? OK : NOT_SUPPORTED; }
int nvmlDeviceGetCount_v2(uint *count) {
    char text[64];
    if (!find("-", "count", text, sizeof text)) return NOT_SUPPORTED;
    *count = (uint)atoi(text);
    return OK;
}
int nvmlDeviceGetHandleByIndex_v2(uint index, handle *device) {
    char text[8];
    *device = 1000ul * (index + 1);
    int status = text_of(*device, "name", text, sizeof text);
    return status == LOST || status == NO_PERMISSION ? status : OK;
}
int nvmlDeviceGetName(handle of, char *text, uint size) { return text_of(of, "name", text, size); }
int nvmlDeviceGetUUID(handle of, char *text, uint size) { return text_of(of, "uuid", text, size); }
int nvmlDeviceGetMigMode(handle of, uint *now, uint *soon) {
    int status = uint_of(of, "mig", now);
    *soon = *now;
    return status;
}
int nvmlDeviceGetMaxMigDeviceCount(handle of, uint *count) { return uint_of(of, "instances", count); }
int nvmlDeviceGetMigDeviceHandleByIndex(handle of, uint index, handle *instance) {
    char text[96];
    *instance = of + index + 1;
    return text_of(*instance, "uuid", text, sizeof text) == OK ? OK : NOT_FOUND;
}
int nvmlDeviceGetAttributes_v2(handle of, uint *attributes) { return uint_of(of, "multiprocessors", attributes); }
int nvmlDeviceGetUtilizationRates(handle of, uint *rates) {
    int status = uint_of(of, "utilization", &rates[0]);
    if (status == OK && uint_of(of, "memory_utilization", &rates[1]) != OK) rates[1] = 0;
    return status;
}
int nvmlDeviceGetMemoryInfo(handle of, ull *memory) {
    int status = ull_of(of, "memory_total", &memory[0]);
    if (status == OK) status = ull_of(of, "memory_used", &memory[2]);
    memory[1] = memory[0] - memory[2];
    return status;
}
int nvmlDeviceGetTemperature(handle of, int sensor, uint *value) { return uint_of(of, "temperature", value); }
int nvmlDeviceGetPowerUsage(handle of, uint *value) { return uint_of(of, "milliwatts", value); }
int nvmlDeviceGetEnforcedPowerLimit(handle of, uint *value) { return uint_of(of, "milliwatts_limit", value); }
int nvmlDeviceGetClockInfo(handle of, int which, uint *value) {
    return uint_of(of, which == 1 ? "sm_mhz" : "memory_mhz", value);
}
int nvmlDeviceGetCurrentClocksEventReasons(handle of, ull *value) { return ull_of(of, "reasons", value); }
int nvmlDeviceGetTotalEccErrors(handle of, int kind, int counter, ull *value) {
    return ull_of(of, counter == 0 ? (kind ? "uncorrected_now" : "corrected_now") : kind ? "uncorrected" : "corrected", value);
}
int nvmlDeviceGetRemappedRows(handle of, uint *corrected, uint *uncorrected, uint *pending, uint *failed) {
    int status = uint_of(of, "remap_pending", pending);
    *corrected = *uncorrected = 0;
    if (status == OK && uint_of(of, "remap_failed", failed) != OK) *failed = 0;
    return status;
}
int nvmlDeviceGetPcieThroughput(handle of, int direction, uint *value) {
    return uint_of(of, direction ? "pcie_received_kb" : "pcie_sent_kb", value);
}
int nvmlDeviceGetComputeRunningProcesses_v3(handle of, uint *count, char *processes) {
    uint there, room = *count;
    int status = uint_of(of, "processes", &there);
    if (status != OK) return status;
    *count = there;
    if (there > room) return INSUFFICIENT_SIZE;
    memset(processes, 0, 24ul * there);
    return OK;
}
int nvmlDeviceGetP2PStatus(handle one, handle other, int capability, uint *value) {
    return uint_of(one, "nvlink", value) == OK ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetTopologyCommonAncestor(handle one, handle other, uint *level) { return uint_of(one, "topology", level); }

/* An `xid` is told once, and again when it is another one. */
typedef struct { handle device; ull type, data; uint gpu_instance, compute_instance; } event;
static handle heard[64];
static uint heard_count, told[64];

int nvmlEventSetCreate(void **set) { *set = heard; heard_count = 0; return OK; }
int nvmlEventSetFree(void *set) { return OK; }
int nvmlDeviceRegisterEvents(handle of, ull types, void *set) { told[heard_count] = 0; heard[heard_count++] = of; return OK; }
int nvmlDeviceGetIndex(handle of, uint *index) { *index = (uint)(of / 1000 - 1); return OK; }
int nvmlEventSetWait_v2(void *set, event *found, uint milliseconds) {
    for (uint each = 0; each < heard_count; each++) {
        uint xid = 0;
        if (uint_of(heard[each], "xid", &xid) != OK) xid = 0;
        if (xid && xid != told[each]) {
            memset(found, 0, sizeof *found);
            found->device = heard[each];
            found->data = told[each] = xid;
            return OK;
        }
    }
    return TIMEOUT;
}

/* Of each of its `nvlinks` links the same: `nvlink_sent_kib` and `nvlink_received_kib`. */
typedef struct { uint field, scope; long long at, took; int type, status; ull value; } field_value;

int nvmlDeviceGetFieldValues(handle of, int count, field_value *values) {
    uint links = 0;
    int status = uint_of(of, "nvlinks", &links);
    if (status == LOST) return status;
    for (int each = 0; each < count; each++) {
        field_value *now = values + each;
        now->status = NOT_SUPPORTED;
        if (now->scope < links) now->status = ull_of(of, now->field == 138 ? "nvlink_sent_kib" : "nvlink_received_kib", &now->value);
    }
    return OK;
}
