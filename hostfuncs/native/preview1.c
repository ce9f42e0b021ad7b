/* The functions of WASI preview 1 that nearly every guest calls, and the bracket around a run of a core module.

   Each function here does what the function of that name in hostfuncs/wasip1 does, which is the reference. Whatever is
   out of the ordinary (many vectors, output beyond its limit, no memory yet, no room in the process) is passed on to
   the reference, which from then on answers whatever has to do with streams, descriptors, arguments and variables in
   that run: see `run.active`.

   A guest's pointer is used in one way only: `at()` checks it, with its length, against the memory's present size.
   There are no headers and nothing is linked: the few functions of libc are declared here, and wasmtime's come as
   addresses. So any C compiler will do, on a machine without libc's headers too. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef __SIZE_TYPE__ size;

extern void *memcpy(void *, const void *, size);
extern void *memmove(void *, const void *, size);
extern void *memset(void *, int, size);
extern void *realloc(void *, size);
extern void free(void *);
extern long getrandom(void *, size, u32);
struct timespec { long seconds, nanoseconds; };
extern int clock_gettime(int, struct timespec *);

#ifndef SOURCE
#define SOURCE ""
#endif

/* Values of wasmtime's lie in memory as little-endian numbers; addresses are kept in 64 bits. */
typedef char little_endian_64_bits[sizeof(void *) == 8 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 1 : -1];

enum { SUCCESS = 0, BADF = 8, FAULT = 21, INVAL = 28, SPIPE = 70 };
enum { STDIN, STDOUT, STDERR };
enum { REALTIME, MONOTONIC, THREAD_CPUTIME = 3 };
enum { VECTORS = 1024, MOST_MOVED = 0x7fffffff, RANDOM_MOST = 1 << 18, KEPT_ROOM = 1 << 16, FIRST_ROOM = 4096 };
enum { EXTERN_BYTES = 32, EXTERN_ITEM = 8, TRAP_INTERRUPT = 10, RESULTS = 16, VALUE_BYTES = 16, FRAMES = 32 };

typedef union { u32 i32; u64 i64; u8 bytes[VALUE_BYTES]; } value;
typedef void *callback(void *env, void *caller, value *values, size count);

/* Bytes that the host keeps for a guest. */
struct buffer { u8 *bytes; u64 used, room; };

/* Where a guest trapped, and why: all that the text of its trap depends on. */
struct place {
    u64 bytes;              /* of what follows; 0 if it is not known */
    u64 code;
    struct { u64 function, offset; } frames[FRAMES];
};

/* `wasm_frame_vec_t` */
struct frames { size count; void **frame; };

/* One linked guest, used again for each of its runs. hostfuncs/native/library.py has the same fields in this order. */
struct run {
    /* wasmtime */
    void *(*store_new)(void *engine, void *data, void *finalizer);
    void *(*store_context)(void *store);
    void (*store_limiter)(void *store, u64 memory, u64 elements, u64 instances, u64 tables, u64 memories);
    void (*store_epoch_deadline_callback)(void *store, void *function, void *data, void *finalizer);
    void (*context_set_epoch_deadline)(void *context, u64 ticks);
    void *(*instance_pre_instantiate)(void *pre, void *context, void *instance, void **trap);
    u8 (*instance_export_get)(void *context, void *instance, const char *name, size length, void *item);
    void *(*func_call_unchecked)(void *context, void *function, void *values, size count, void **trap);
    u8 *(*memory_data)(void *context, void *memory);
    size (*memory_data_size)(void *context, void *memory);
    void *(*trap_new_code)(u8 code);
    u8 (*trap_code)(void *trap, u8 *code);
    void (*trap_trace)(void *trap, struct frames *frames);
    u32 (*frame_func_index)(void *frame);
    size (*frame_module_offset)(void *frame);
    void (*frames_delete)(struct frames *frames);
    void (*trap_delete)(void *trap);
    void (*store_delete)(void *store);

    /* the guest */
    void *engine, *pre, *epoch_callback;
    u64 memory_limit, elements_limit, instances_limit, tables_limit, memories_limit;
    u64 has_start;
    u64 stdout_limit, stderr_limit;
    u64 system_sources;     /* whether clocks and random bytes are the machine's */
    u64 realtime_resolution, monotonic_resolution;
    u64 rights_stdin, rights_output;

    /* the run: what the caller reads after each */
    u64 active;             /* whether the functions here answer; 0 between runs, and once the reference took over */
    u64 instantiated_ns, memory_bytes;
    struct buffer out;
    u64 stderr_total;

    /* what the caller reads if it must */
    struct buffer err;
    u64 stdin_at;
    u64 stands;             /* whether there is an instance */
    u64 exited, exit_code;
    void *store, *error, *trap;
    struct place place;     /* of the trap */

    /* what nobody else reads */
    void *context;
    const u8 *args, *environ, *input;
    u64 args_bytes, environ_bytes, input_bytes;
    u64 instance[2];
    u64 memory_extern[EXTERN_BYTES / 8], start_extern[EXTERN_BYTES / 8];
    u64 attached;           /* whether memory_extern is the guest's memory */
};

/* By these the loader knows a library that was built from another source, or lays the record out in another way. */
const char hostfuncs_native_source[] = SOURCE;
const u64 hostfuncs_native_run_bytes = sizeof(struct run);

/* What wasmtime passes to a function as its `env`. */
struct function { struct run *run; callback *reference; };

#define ITEM(extern_) ((u8 *)(extern_) + EXTERN_ITEM)

static u64 now(int clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (u64)t.seconds * 1000000000u + (u64)t.nanoseconds;
}

/* The guest's memory while one function runs. It does not grow or move meanwhile: the guest has one thread. */
struct memory { u8 *data; u64 bytes; };

static struct memory memory_of(struct run *r) {
    void *handle = ITEM(r->memory_extern);
    struct memory m = {r->memory_data(r->context, handle), r->memory_data_size(r->context, handle)};
    if (!m.data) m.bytes = 0, m.data = (u8 *)r; /* an empty range has an address, too */
    return m;
}

/* The address of a range, or null if it does not lie in memory. An empty one may begin at the end, and not after it. */
static u8 *at(struct memory m, u32 pointer, u64 length) {
    return length > m.bytes || pointer > m.bytes - length ? 0 : m.data + pointer;
}

static int put_u32(struct memory m, u32 pointer, u32 number) {
    u8 *to = at(m, pointer, sizeof number);
    if (!to) return FAULT;
    memcpy(to, &number, sizeof number);
    return SUCCESS;
}

static int put_u64(struct memory m, u32 pointer, u64 number) {
    u8 *to = at(m, pointer, sizeof number);
    if (!to) return FAULT;
    memcpy(to, &number, sizeof number);
    return SUCCESS;
}

/* memcpy, of no bytes too, which may then be nowhere. */
static void copy(u8 *to, const u8 *from, u64 bytes) {
    if (bytes) memcpy(to, from, bytes);
}

/* Make room for so many bytes. Return 0 if the process has none. */
static int reserve(struct buffer *b, u64 bytes) {
    u64 room = b->room ? b->room : FIRST_ROOM;
    u8 *grown;
    if (bytes <= b->room) return 1;
    while (room < bytes) room *= 2;
    grown = realloc(b->bytes, room);
    if (!grown) return 0;
    b->bytes = grown;
    b->room = room;
    return 1;
}

#define FUNCTION(name) void *hostfuncs_native_##name(void *env, void *caller, value *v, size count)
#define BEGIN struct function *self = env; struct run *r = self->run
#define PASS_ON return self->reference(0, caller, v, count)
#define ANSWER(errno) do { v[0].i32 = (errno); return 0; } while (0)
#define NEED_MEMORY if (!r->active || !r->attached) PASS_ON; struct memory m = memory_of(r)

/* args, environ ---------------------------------------------------------------------------------------------------- */

static u32 strings_in(const u8 *block, u64 bytes) {
    u32 strings = 0;
    for (u64 i = 0; i < bytes; i++) strings += !block[i];
    return strings;
}

static int sizes_get(struct memory m, const u8 *block, u64 bytes, u32 count_pointer, u32 bytes_pointer) {
    int error = put_u32(m, count_pointer, strings_in(block, bytes));
    return error ? error : put_u32(m, bytes_pointer, (u32)bytes);
}

static int strings_get(struct memory m, const u8 *block, u64 bytes, u32 pointers, u32 buffer) {
    u8 *to = at(m, pointers, 4 * (u64)strings_in(block, bytes)), *characters = at(m, buffer, bytes);
    if (!to || !characters) return FAULT;
    copy(characters, block, bytes);
    for (u64 i = 0; i < bytes; i++)
        if (i == 0 || !block[i - 1]) {
            u32 pointer = buffer + (u32)i;
            memcpy(to, &pointer, sizeof pointer);
            to += sizeof pointer;
        }
    return SUCCESS;
}

FUNCTION(args_sizes_get) {
    BEGIN;
    NEED_MEMORY;
    ANSWER(sizes_get(m, r->args, r->args_bytes, v[0].i32, v[1].i32));
}

FUNCTION(args_get) {
    BEGIN;
    NEED_MEMORY;
    ANSWER(strings_get(m, r->args, r->args_bytes, v[0].i32, v[1].i32));
}

FUNCTION(environ_sizes_get) {
    BEGIN;
    NEED_MEMORY;
    ANSWER(sizes_get(m, r->environ, r->environ_bytes, v[0].i32, v[1].i32));
}

FUNCTION(environ_get) {
    BEGIN;
    NEED_MEMORY;
    ANSWER(strings_get(m, r->environ, r->environ_bytes, v[0].i32, v[1].i32));
}

/* clocks, random bytes --------------------------------------------------------------------------------------------- */

FUNCTION(clock_time_get) {
    BEGIN;
    u32 clock = v[0].i32;
    NEED_MEMORY;
    if (clock > THREAD_CPUTIME) ANSWER(INVAL);
    if (!r->system_sources || clock > MONOTONIC) PASS_ON;
    ANSWER(put_u64(m, v[2].i32, now(clock == REALTIME ? 0 : 1)));
}

FUNCTION(clock_res_get) {
    BEGIN;
    u32 clock = v[0].i32;
    NEED_MEMORY;
    if (clock > THREAD_CPUTIME) ANSWER(INVAL);
    ANSWER(put_u64(m, v[1].i32, clock == REALTIME ? r->realtime_resolution : r->monotonic_resolution));
}

FUNCTION(random_get) {
    BEGIN;
    NEED_MEMORY;
    u64 left = v[1].i32;
    u8 *to = at(m, v[0].i32, left);
    if (!r->system_sources || left > RANDOM_MOST) PASS_ON;
    if (!to) ANSWER(FAULT);
    while (left) {
        long got = getrandom(to, left, 0);
        if (got <= 0) PASS_ON; /* interrupted by a signal: the reference begins anew */
        to += got;
        left -= (u64)got;
    }
    ANSWER(SUCCESS);
}

/* streams ---------------------------------------------------------------------------------------------------------- */

struct vector { u32 pointer, length; };

FUNCTION(fd_read) {
    struct vector vectors[VECTORS];
    BEGIN;
    NEED_MEMORY;
    u32 fd = v[0].i32, vectors_count = v[2].i32, nread = v[3].i32;
    u64 begin = r->stdin_at, end = begin;
    u8 *array;
    if (fd != STDIN) ANSWER(BADF);
    if (vectors_count > VECTORS) PASS_ON;
    array = at(m, v[1].i32, vectors_count * (u64)sizeof *vectors);
    if (!array) ANSWER(FAULT);
    /* A copy: what is read may be written over the array. */
    memcpy(vectors, array, vectors_count * sizeof *vectors);
    for (u32 i = 0; i < vectors_count; i++) {
        u64 left = r->input_bytes - end, length = vectors[i].length;
        u8 *to = at(m, vectors[i].pointer, length);
        if (!length) continue;
        if (!to) ANSWER(FAULT);
        if (length > left) length = left;
        copy(to, r->input + end, length);
        end += length;
        if (end == r->input_bytes) break;
    }
    if (put_u32(m, nread, (u32)(end - begin))) ANSWER(FAULT);
    r->stdin_at = end;
    ANSWER(SUCCESS);
}

/* Append to the end that is kept of stderr: the last `limit` bytes are in the buffer, and at most as many before them.
   There must be room for as much as that, or for all there is. */
static void keep_end(struct buffer *b, u64 limit, const u8 *from, u64 bytes) {
    u64 kept;
    if (bytes > limit) {
        from += bytes - limit;
        bytes = limit;
    }
    if (b->used + bytes > 2 * limit) {
        kept = limit - bytes;
        if (kept) memmove(b->bytes, b->bytes + (b->used - kept), kept);
        b->used = kept;
    }
    copy(b->bytes + b->used, from, bytes);
    b->used += bytes;
}

FUNCTION(fd_write) {
    struct vector vectors[VECTORS];
    BEGIN;
    NEED_MEMORY;
    u32 fd = v[0].i32, vectors_count = v[2].i32, nwritten = v[3].i32;
    u64 total = 0;
    u8 *array;
    if (fd != STDOUT && fd != STDERR) ANSWER(BADF);
    if (vectors_count > VECTORS) PASS_ON;
    array = at(m, v[1].i32, vectors_count * (u64)sizeof *vectors);
    if (!array) ANSWER(FAULT);
    memcpy(vectors, array, vectors_count * sizeof *vectors);
    for (u32 i = 0; i < vectors_count; i++) total += vectors[i].length;
    if (total > MOST_MOVED) PASS_ON;
    if (fd == STDOUT) {
        if (total > r->stdout_limit - r->out.used || !reserve(&r->out, r->out.used + total)) PASS_ON;
    } else {
        u64 most = 2 * r->stderr_limit;
        if (!reserve(&r->err, r->err.used + total < most ? r->err.used + total : most)) PASS_ON;
    }
    for (u32 i = 0; i < vectors_count; i++) {
        u32 length = vectors[i].length;
        u8 *from = at(m, vectors[i].pointer, length);
        /* The reference looks at an empty vector only if there is no other. */
        if (!length && vectors_count != 1) continue;
        if (!from) ANSWER(FAULT);
        if (fd == STDOUT) {
            copy(r->out.bytes + r->out.used, from, length);
            r->out.used += length;
        } else {
            keep_end(&r->err, r->stderr_limit, from, length);
            r->stderr_total += length;
        }
    }
    ANSWER(put_u32(m, nwritten, (u32)total));
}

FUNCTION(fd_fdstat_get) {
    BEGIN;
    struct { u8 type, pad; u16 flags; u32 pad2; u64 rights, inheriting; } stat;
    NEED_MEMORY;
    u32 fd = v[0].i32;
    u8 *to = at(m, v[1].i32, sizeof stat);
    if (fd > STDERR) ANSWER(BADF);
    if (!to) ANSWER(FAULT);
    memset(&stat, 0, sizeof stat);
    stat.type = 1;
    stat.flags = fd != STDIN;
    stat.rights = fd == STDIN ? r->rights_stdin : r->rights_output;
    memcpy(to, &stat, sizeof stat);
    ANSWER(SUCCESS);
}

FUNCTION(fd_seek) {
    BEGIN;
    if (!r->active) PASS_ON;
    if (v[0].i32 > STDERR) ANSWER(BADF);
    ANSWER(v[2].i32 > 2 ? INVAL : SPIPE);
}

/* Nothing is preopened. */
FUNCTION(fd_prestat_get) { BEGIN; if (!r->active) PASS_ON; ANSWER(BADF); }
FUNCTION(fd_prestat_dir_name) { BEGIN; if (!r->active) PASS_ON; ANSWER(BADF); }

FUNCTION(sched_yield) { (void)env; (void)caller; (void)count; ANSWER(SUCCESS); }

FUNCTION(proc_exit) {
    BEGIN;
    if (!r->active) PASS_ON;
    r->exited = 1;
    r->exit_code = v[0].i32;
    return r->trap_new_code(TRAP_INTERRUPT);
}

/* the bracket ------------------------------------------------------------------------------------------------------ */

static void enter(struct run *r) {
    value results[RESULTS];
    r->error = r->instance_pre_instantiate(r->pre, r->context, r->instance, &r->trap);
    r->instantiated_ns = now(1);
    if (r->error || r->trap) return;
    r->stands = 1;
    r->attached = r->instance_export_get(r->context, r->instance, "memory", 6, r->memory_extern);
    if (!r->has_start || !r->instance_export_get(r->context, r->instance, "_start", 6, r->start_extern)) return;
    r->error = r->func_call_unchecked(r->context, ITEM(r->start_extern), results, RESULTS, &r->trap);
}

static void take_place(struct run *r) {
    struct place *p = &r->place;
    struct frames frames;
    u8 code;
    if (!r->trap_code(r->trap, &code)) return;
    r->trap_trace(r->trap, &frames);
    if (frames.count <= FRAMES) {
        p->code = code;
        for (size i = 0; i < frames.count; i++) {
            p->frames[i].function = r->frame_func_index(frames.frame[i]);
            p->frames[i].offset = r->frame_module_offset(frames.frame[i]);
        }
        p->bytes = sizeof p->code + frames.count * sizeof *p->frames;
    }
    r->frames_delete(&frames);
}

void hostfuncs_native_delete(struct run *r) {
    if (r->store) r->store_delete(r->store);
    r->store = 0;
}

/* Run the guest once. Return whether it returned, or exited with 0, and had an instance. The store is deleted, but for
   that of a run without an instance, which the caller deletes. He frees `error` or `trap`. The pointers must stay valid
   until the store is deleted. */
int hostfuncs_native_run(struct run *r, const u8 *args, u64 args_bytes, const u8 *environ, u64 environ_bytes,
                         const u8 *input, u64 input_bytes) {
    r->args = args;
    r->args_bytes = args_bytes;
    r->environ = environ;
    r->environ_bytes = environ_bytes;
    r->input = input;
    r->input_bytes = input_bytes;
    r->active = 1;
    r->error = r->trap = 0;
    r->stands = r->exited = r->exit_code = r->attached = r->place.bytes = 0;
    r->stdin_at = r->stderr_total = r->out.used = r->err.used = r->memory_bytes = 0;
    r->store = r->store_new(r->engine, 0, 0);
    r->context = r->store_context(r->store);
    r->store_limiter(r->store, r->memory_limit, r->elements_limit, r->instances_limit, r->tables_limit,
                     r->memories_limit);
    r->store_epoch_deadline_callback(r->store, r->epoch_callback, 0, 0);
    r->context_set_epoch_deadline(r->context, 1);
    enter(r);
    r->active = 0;
    if (r->attached) r->memory_bytes = r->memory_data_size(r->context, ITEM(r->memory_extern));
    if (r->exited && r->trap && !r->error) {
        r->trap_delete(r->trap);
        r->trap = 0;
    } else if (r->trap) {
        take_place(r);
    }
    /* In a start function, only the caller may know the memory. */
    if (!r->stands) return 0;
    hostfuncs_native_delete(r);
    return !r->error && !r->trap && !r->exit_code;
}

/* Give large buffers back. */
void hostfuncs_native_trim(struct run *r) {
    struct buffer *buffers[] = {&r->out, &r->err};
    for (int i = 0; i < 2; i++)
        if (buffers[i]->room > KEPT_ROOM) {
            free(buffers[i]->bytes);
            memset(buffers[i], 0, sizeof *buffers[i]);
        }
}
