"""The part of KubeRay's CRDs that our manifests use, written down by hand.

Source: the field names and types of ray-operator/apis/ray/v1/{rayservice,rayjob,raycluster}_types.go of KubeRay
(ray.io/v1, 1.6) and of Kubernetes' core/v1 for pods. A true CRD is 1 MB of somebody else's text, so it is not kept
here. The schema is closed: a field that is not listed is a fault, so a typo cannot pass as an unknown extra.
"""

STRING, BOOL = {"type": "string"}, {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
STRINGS = {"type": "object", "additionalProperties": STRING}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti)?$"}


def closed(properties, required=()):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def listed(items):
    return {"type": "array", "items": items, "minItems": 1}


AMOUNTS = {"type": "object", "additionalProperties": QUANTITY}
ENVIRONMENT = closed(
    {
        "name": STRING,
        "value": STRING,
        "valueFrom": closed(
            {"secretKeyRef": closed({"name": STRING, "key": STRING}, ("name", "key"))}, ("secretKeyRef",)
        ),
    },
    ("name",),
)
CONTAINER = closed(
    {
        "name": STRING,
        "image": STRING,
        "ports": listed(closed({"containerPort": COUNT, "name": STRING}, ("containerPort",))),
        "env": listed(ENVIRONMENT),
        "resources": closed({"requests": AMOUNTS, "limits": AMOUNTS}),
        "lifecycle": closed({"preStop": closed({"exec": closed({"command": listed(STRING)}, ("command",))})}),
    },
    ("name", "image"),
)
POD = closed(
    {"spec": closed({"containers": listed(CONTAINER), "terminationGracePeriodSeconds": COUNT}, ("containers",))},
    ("spec",),
)
CLUSTER = closed(
    {
        "rayVersion": STRING,
        "enableInTreeAutoscaling": BOOL,
        "authOptions": closed({"mode": {"enum": ["disabled", "token"]}}, ("mode",)),
        "headGroupSpec": closed({"rayStartParams": STRINGS, "template": POD}, ("template",)),
        "workerGroupSpecs": listed(
            closed(
                {
                    "groupName": STRING,
                    "replicas": COUNT,
                    "minReplicas": COUNT,
                    "maxReplicas": COUNT,
                    "rayStartParams": STRINGS,
                    "template": POD,
                },
                ("groupName", "minReplicas", "maxReplicas", "template"),
            )
        ),
    },
    ("headGroupSpec",),
)


def resource(kind, spec):
    name = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
    return closed(
        {
            "apiVersion": {"const": "ray.io/v1"},
            "kind": {"const": kind},
            "metadata": closed({"name": name, "labels": STRINGS}, ("name",)),
            "spec": spec,
        },
        ("apiVersion", "kind", "metadata", "spec"),
    )


RAY_SERVICE = resource(
    "RayService",
    closed(
        {
            "upgradeStrategy": closed({"type": {"enum": ["NewCluster", "None", "NewClusterWithIncrementalUpgrade"]}}),
            "serveConfigV2": STRING,
            "rayClusterConfig": CLUSTER,
        },
        ("serveConfigV2", "rayClusterConfig"),
    ),
)
RAY_JOB = resource(
    "RayJob",
    closed(
        {
            "entrypoint": STRING,
            "shutdownAfterJobFinishes": BOOL,
            "ttlSecondsAfterFinished": COUNT,
            "backoffLimit": COUNT,
            "activeDeadlineSeconds": COUNT,
            "rayClusterSpec": CLUSTER,
        },
        ("entrypoint", "rayClusterSpec"),
    ),
)
