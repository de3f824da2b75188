/* A libnvidia-ml.so.1 that plays a script: for tests of the real binding without a driver.
 *
 * stub_play(path) loads a script, stub_set_now(seconds) moves its clock. A script is a line a fact, times in seconds:
 *
 *   driver VERSION
 *   stamps SECONDS                   added to the played time to give the stamp of a sample
 *   gpu UUID NAME                    in the order of the bus; no spaces in a name
 *   mig UUID NUMBER                  an instance of the gpu above
 *   set FUNCTION NUMBER [FROM TO]    what a function of one number answers; the last that applies counts
 *   grow FUNCTION BASE PER_SECOND    the same, growing
 *   refuse FUNCTION CODE [FROM TO]   "*" is every function that asks about a device
 *   ring FROM TO STEP P1 P2 ...      utilisation samples, taken at the end of each step; the newest 100 are kept
 *   process PID PERCENT              computes on the gpu; below 0 it is listed and used nothing
 *   field NUMBER BASE PER_SECOND     a field value; any other is not supported
 *   metric NUMBER PERCENT            a performance metric; without any the gpu has none
 *
 * Everything but gpu and mig holds for all devices. With OLD_DRIVER defined, newer functions are missing. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { MOST = 64, RING = 100, ALWAYS = 1000000000 };

typedef struct { char uuid[96], name[96]; int parent, number; } Device;
typedef struct { char function[64]; double number, per_s, from_s, to_s; } Fact;
typedef struct { unsigned number; double base, per_s; } Field;
typedef struct { uint32_t pid; int percent; } Process;
typedef struct { uint64_t stamp; union { double real; unsigned number; uint64_t wide; } value; } Sample;
typedef struct { uint32_t pid; uint64_t stamp; uint32_t sm, memory, encoder, decoder; } ProcessUse;
typedef struct { uint32_t pid; uint64_t bytes; uint32_t gpu_instance, compute_instance; } ProcessInfo;
typedef struct { uint32_t version; uint64_t total, reserved, free, used; } MemoryV2;
typedef struct { uint32_t id, scope; int64_t stamp, latency; int32_t type, code; uint64_t value; } FieldValue;
typedef struct { uint32_t id; int32_t code; double value; const char *names[3]; } Metric;
typedef struct { uint32_t version, count; void *first, *second; Metric metrics[1]; } Metrics;
typedef struct { double taken_s; } GpmSample;

static Device devices[MOST];
static Fact answers[MOST], refusals[MOST];
static Field fields[MOST], metrics[MOST];
static Process processes[MOST];
static int device_count, answer_count, refusal_count, field_count, metric_count, process_count, ring_count;
static double ring_from_s, ring_to_s, ring_step_s, ring_percent[MOST], stamps_s, now_s;
static char driver[64];
void stub_set_now(double seconds) { now_s = seconds; }

static Fact read_fact(const char *line, int grows) {
    Fact fact = {"", 0, 0, -ALWAYS, ALWAYS};
    double *third = grows ? &fact.per_s : &fact.from_s;
    sscanf(line, "%63s %lf %lf %lf", fact.function, &fact.number, third, &fact.to_s);
    return fact;
}

static void read_ring(char *line) {
    char *word = strtok(line, " \n");
    double *targets[] = {&ring_from_s, &ring_to_s, &ring_step_s};
    for (int place = 0; word; place++, word = strtok(NULL, " \n"))
        *(place < 3 ? targets[place] : &ring_percent[ring_count++]) = atof(word);
}

int stub_play(const char *path) {
    FILE *file = fopen(path, "r");
    char line[1024], word[64];
    if (!file) return 1;
    memset(devices, 0, sizeof devices);
    device_count = answer_count = refusal_count = field_count = metric_count = process_count = ring_count = 0;
    stamps_s = now_s = 0;
    strcpy(driver, "580.95.05");
    while (fgets(line, sizeof line, file)) {
        int at = 0;
        if (sscanf(line, "%63s %n", word, &at) < 1 || word[0] == '#') continue;
        char *rest = line + at;
        Device *device = &devices[device_count];
        if (!strcmp(word, "driver")) sscanf(rest, "%63s", driver);
        else if (!strcmp(word, "stamps")) stamps_s = atof(rest);
        else if (!strcmp(word, "gpu")) {
            sscanf(rest, "%95s %95s", device->uuid, device->name);
            device->parent = -1;
            device_count++;
        } else if (!strcmp(word, "mig")) {
            int parent = device_count - 1;
            while (devices[parent].parent >= 0) parent--;
            sscanf(rest, "%95s %d", device->uuid, &device->number);
            device->parent = parent;
            device_count++;
        } else if (!strcmp(word, "set")) answers[answer_count++] = read_fact(rest, 0);
        else if (!strcmp(word, "grow")) answers[answer_count++] = read_fact(rest, 1);
        else if (!strcmp(word, "refuse")) refusals[refusal_count++] = read_fact(rest, 0);
        else if (!strcmp(word, "ring")) read_ring(rest);
        else if (!strcmp(word, "process")) {
            sscanf(rest, "%u %d", &processes[process_count].pid, &processes[process_count].percent);
            process_count++;
        } else if (!strcmp(word, "field") || !strcmp(word, "metric")) {
            Field *field = word[0] == 'f' ? &fields[field_count++] : &metrics[metric_count++];
            field->per_s = 0;
            sscanf(rest, "%u %lf %lf", &field->number, &field->base, &field->per_s);
        } else { fclose(file); return 2; }
    }
    fclose(file);
    return 0;
}

static int applies(const Fact *fact) { return fact->from_s <= now_s && now_s < fact->to_s; }

static int refused(const char *function) {
    for (int place = 0; place < refusal_count; place++) {
        const Fact *fact = &refusals[place];
        int is_meant = !strcmp(fact->function, function) || !strcmp(fact->function, "*");
        if (is_meant && applies(fact)) return (int)fact->number;
    }
    return SUCCESS;
}

/* Return the answer to a function of one number, or the code of its refusal; without a fact it is not supported. */
static int answer(const char *function, double *number) {
    int code = refused(function);
    if (code) return code;
    code = NOT_SUPPORTED;
    for (int place = 0; place < answer_count; place++)
        if (!strcmp(answers[place].function, function) && applies(&answers[place])) {
            *number = answers[place].number + answers[place].per_s * now_s;
            code = SUCCESS;
        }
    return code;
}

#define BODY(name, type)                                                          \
    double number = 0;                                                            \
    int code = answer(#name, &number);                                            \
    if (code == SUCCESS) *found = (type)number;                                   \
    return code;
#define ONE_NUMBER(name, type) int name(void *device, type *found) { BODY(name, type) }
#define ONE_NUMBER_OF_A_KIND(name, type) int name(void *device, int kind, type *found) { BODY(name, type) }

ONE_NUMBER(nvmlDeviceGetPowerUsage, unsigned)
ONE_NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned)
ONE_NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned)
ONE_NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned)
ONE_NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned)
ONE_NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, uint64_t)
ONE_NUMBER_OF_A_KIND(nvmlDeviceGetClockInfo, unsigned)
ONE_NUMBER_OF_A_KIND(nvmlDeviceGetMaxClockInfo, unsigned)

int nvmlInitWithFlags(unsigned flags) { return refused("nvmlInitWithFlags"); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return "played"; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    return snprintf(version, length, "%s", driver), SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    int code = refused("nvmlDeviceGetCount_v2");
    *count = 0;
    for (int place = 0; place < device_count; place++) *count += devices[place].parent < 0;
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    int code = refused("nvmlDeviceGetHandleByIndex_v2");
    *handle = NULL;
    for (int place = 0; place < device_count; place++)
        if (devices[place].parent < 0 && index-- == 0) *handle = &devices[place];
    return code ? code : *handle ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    int code = refused("nvmlDeviceGetHandleByUUID");
    *handle = NULL;
    for (int place = 0; place < device_count; place++)
        if (!strcmp(devices[place].uuid, uuid)) *handle = &devices[place];
    return code ? code : *handle ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetUUID(Device *device, char *uuid, unsigned length) {
    snprintf(uuid, length, "%s", device->uuid);
    return refused("nvmlDeviceGetUUID");
}

int nvmlDeviceGetName(Device *device, char *name, unsigned length) {
    snprintf(name, length, "%s", device->name);
    return refused("nvmlDeviceGetName");
}

int nvmlDeviceGetMemoryInfo(void *device, uint64_t *total_free_used) {
    double used = 0;
    int code = answer("nvmlDeviceGetMemoryInfo", &used);
    total_free_used[0] = 80ull << 30;
    total_free_used[2] = (uint64_t)used;
    total_free_used[1] = total_free_used[0] - total_free_used[2];
    return code;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned *gpu_memory) {
    double percent = 0;
    int code = answer("nvmlDeviceGetUtilizationRates", &percent);
    gpu_memory[0] = (unsigned)percent;
    gpu_memory[1] = 0;
    return code;
}

static uint64_t stamp(double played_s) { return (uint64_t)llround((played_s + stamps_s) * 1e6); }
int nvmlDeviceGetSamples(void *device, int kind, uint64_t since, int *type, unsigned *count, Sample *samples) {
    int code = refused("nvmlDeviceGetSamples");
    if (code) return code;
    if (kind != 1) return NOT_SUPPORTED;
    double until_s = now_s < ring_to_s ? now_s : ring_to_s;
    int taken = ring_count ? (int)floor((until_s - ring_from_s) / ring_step_s + 1e-9) : 0, found = 0;
    for (int place = taken > RING ? taken - RING : 0; place < taken; place++) {
        uint64_t at = stamp(ring_from_s + (place + 1) * ring_step_s);
        if (at <= since) continue;
        if (samples && found < (int)*count) {
            samples[found].stamp = at;
            samples[found].value.wide = (unsigned)ring_percent[place % ring_count];
        }
        found++;
    }
    *type = 1;
    if (!samples || found < (int)*count) *count = found;
    return found ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetProcessUtilization(void *device, ProcessUse *rows, unsigned *count, uint64_t since) {
    int code = refused("nvmlDeviceGetProcessUtilization"), found = 0;
    if (code) return code;
    for (int place = 0; place < process_count; place++) {
        if (processes[place].percent < 0) continue;
        if (rows) rows[found] = (ProcessUse){processes[place].pid, stamp(now_s), processes[place].percent, 0, 0, 0};
        found++;
    }
    *count = found;
    if (found && stamp(now_s) <= since) return NOT_FOUND;
    return rows || !found ? SUCCESS : INSUFFICIENT_SIZE;
}

static int list_processes(const char *function, unsigned *count, ProcessInfo *rows) {
    int code = refused(function), has_room = rows && (int)*count >= process_count;
    if (code) return code;
    *count = process_count;
    for (int place = 0; has_room && place < process_count; place++)
        rows[place] = (ProcessInfo){processes[place].pid, 1 << 20, 0, 0};
    return has_room || !process_count ? SUCCESS : INSUFFICIENT_SIZE;
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned *count, ProcessInfo *rows) {
    return list_processes("nvmlDeviceGetComputeRunningProcesses_v2", count, rows);
}

#ifndef OLD_DRIVER
ONE_NUMBER(nvmlDeviceGetCurrentClocksEventReasons, uint64_t)
ONE_NUMBER(nvmlDeviceGetTotalEnergyConsumption, uint64_t)

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, ProcessInfo *rows) {
    return list_processes("nvmlDeviceGetComputeRunningProcesses_v3", count, rows);
}

int nvmlDeviceGetMemoryInfo_v2(void *device, MemoryV2 *memory) {
    double used = 0;
    int code = answer("nvmlDeviceGetMemoryInfo_v2", &used);
    if (memory->version != 0x02000028) return 25;
    memory->total = 80ull << 30;
    memory->used = (uint64_t)used;
    return code;
}

int nvmlDeviceGetFieldValues(void *device, int count, FieldValue *values) {
    int code = refused("nvmlDeviceGetFieldValues");
    for (int place = 0; !code && place < count; place++) {
        values[place].code = NOT_SUPPORTED;
        for (int each = 0; each < field_count; each++)
            if (fields[each].number == values[place].id) {
                values[place].type = 3;
                values[place].value = (uint64_t)(fields[each].base + fields[each].per_s * now_s);
                values[place].code = SUCCESS;
            }
    }
    return code;
}

static int is_part_of(int place, const Device *gpu) {
    return devices[place].parent >= 0 && &devices[devices[place].parent] == gpu;
}

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    *current = 0;
    for (int place = 0; place < device_count; place++) *current |= is_part_of(place, device);
    *pending = *current;
    return refused("nvmlDeviceGetMigMode");
}

int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) { return *count = 7, SUCCESS; }

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, void **handle) {
    *handle = NULL;
    for (int place = 0; place < device_count; place++)
        if (is_part_of(place, device) && index-- == 0) *handle = &devices[place];
    return *handle ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *device, void **handle) {
    if (device->parent < 0) return INVALID_ARGUMENT;
    *handle = &devices[device->parent];
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(Device *device, unsigned *number) {
    *number = device->number;
    return device->parent < 0 ? NOT_SUPPORTED : SUCCESS;
}

int nvmlGpmQueryDeviceSupport(void *device, unsigned *version_supported) {
    version_supported[1] = metric_count > 0;
    return refused("nvmlGpmQueryDeviceSupport");
}

int nvmlGpmSampleFree(void *sample) { return free(sample), SUCCESS; }
int nvmlGpmSampleAlloc(void **sample) {
    *sample = calloc(1, sizeof(GpmSample));
    return refused("nvmlGpmSampleAlloc");
}

int nvmlGpmSampleGet(Device *device, GpmSample *sample) {
    if (device->parent >= 0) return INVALID_ARGUMENT;
    sample->taken_s = now_s;
    return refused("nvmlGpmSampleGet");
}

int nvmlGpmMigSampleGet(Device *device, unsigned number, GpmSample *sample) {
    sample->taken_s = now_s;
    return number ? refused("nvmlGpmMigSampleGet") : INVALID_ARGUMENT;
}

int nvmlGpmMetricsGet(Metrics *question) {
    if (question->version != 1) return 25;
    if (((GpmSample *)question->second)->taken_s - ((GpmSample *)question->first)->taken_s <= 0.1)
        return INVALID_ARGUMENT;
    for (unsigned place = 0; place < question->count; place++) {
        question->metrics[place].code = NOT_SUPPORTED;
        for (int each = 0; each < metric_count; each++)
            if (metrics[each].number == question->metrics[place].id) {
                question->metrics[place].value = metrics[each].base;
                question->metrics[place].code = SUCCESS;
            }
    }
    return refused("nvmlGpmMetricsGet");
}
#endif
