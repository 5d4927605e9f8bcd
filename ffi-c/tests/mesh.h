/* A directory, a node and a client in one process. */
#ifndef MESH_H
#define MESH_H

#include "check.h"
#include "testing.h"

static const char *const TASK = "{\"intent\":\"" IICP_CHAT "\",\"timeout_ms\":20000}";

/* A small mesh: what the node and the client say comes out of queues of their own. */
struct mesh {
    iicp_runtime runtime;
    iicp_queue serving, asking;
    iicp_directory directory;
    iicp_node node;
    iicp_client client;
    char url[128];
};

static inline struct mesh new_mesh(const char *node_options) {
    struct mesh mesh;
    memset(&mesh, 0, sizeof mesh);
    mesh.runtime = new_runtime();
    mesh.serving = new_queue(mesh.runtime);
    mesh.asking = new_queue(mesh.runtime);
    mesh.directory = new_directory(mesh.serving, mesh.url);
    mesh.node = new_node(mesh.serving, mesh.url, node_options);
    mesh.client = new_client(mesh.runtime, mesh.url);
    return mesh;
}

static inline uint64_t submit(struct mesh *mesh, const char *payload, uint64_t tag) {
    uint64_t op = 0;
    OK(iicp_client_submit(mesh->client, mesh->asking, iicp_text(TASK), iicp_body(payload), tag, &op, NULL));
    return op;
}

#endif
