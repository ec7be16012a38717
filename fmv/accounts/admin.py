"""Users and API tokens in the admin."""

from typing import Any
from uuid import uuid4

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import UserChangeForm, UserCreationForm
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from fmv import audit
from fmv.accounts import api_tokens, export, superusers, user_audit
from fmv.accounts.models import ApiToken, User
from fmv.admin_base import FleetAdmin, badge, time_column
from fmv.errors import FmvError
from fmv.http import sent_forms

LAST_LOGIN, JOINED = time_column("last_login"), time_column("date_joined")
CREATED, EXPIRES = time_column("created_at"), time_column("expires_at")
LAST_USED, REVOKED = time_column("last_used_at"), time_column("revoked_at")


class NewUserForm(UserCreationForm):
    class Meta:
        model = User
        fields = ("username", "role")


HELP = {
    "is_active": "A user who is not active cannot sign in. Users are not deleted, because the audit names them.",
    "subject": "The user's id at the organisation: the OIDC claim sub.",
}


class UserForm(UserChangeForm):
    def clean(self) -> None:
        super().clean()
        stays = self.cleaned_data.get("is_superuser") and self.cleaned_data.get("is_active")
        if not stays and superusers.is_last_superuser(self.instance):  # the instance is not changed yet
            raise forms.ValidationError(str(superusers.LastSuperuser()))


@admin.register(User)
class UserAdmin(FleetAdmin, DjangoUserAdmin):
    """For superusers, because only they may give roles."""

    form = UserForm
    add_form = NewUserForm
    list_display = ("username", "name", "email", "rights", "state", "signs_in_by", LAST_LOGIN)
    list_filter = ("role", "is_active", "is_superuser")
    sortable_by = ("username", "name", "email", LAST_LOGIN)
    search_fields = ("username", "name", "email")
    ordering = ("username",)
    export_columns = export.USERS
    filter_horizontal = ()
    readonly_fields = ("subject", "email_verified", "picture", LAST_LOGIN, JOINED)
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Person", {"fields": ("name", "email", "email_verified", "picture", "subject")}),
        ("Rights", {"fields": ("role", "is_active", "is_superuser")}),
        ("Dates", {"fields": (LAST_LOGIN, JOINED)}),
    )
    add_fieldsets = ((None, {"fields": ("username", "password1", "password2", "role")}),)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # the audit list names users: deactivate them instead

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change=change, **{"help_texts": HELP} | kwargs)

    @admin.display(description="role")
    def rights(self, user: User) -> str:
        return "Superuser" if user.is_superuser else user.get_role_display()

    @admin.display(description="state")
    def state(self, user: User) -> str:
        return badge("active", "state-ok") if user.is_active else badge("deactivated", "state-out")

    @admin.display(description="signs in by")
    def signs_in_by(self, user: User) -> str:
        return export.ways_in(user)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        try:
            return super().change_view(request, object_id, form_url, extra_context)
        except superusers.LastSuperuser as error:  # another request has taken the rights of the others meanwhile
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(request.path)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **options: Any
    ) -> HttpResponse:
        if obj := options.get("obj"):
            context |= {"tokens": obj.api_tokens.order_by("-created_at"), "audit": audit.of("user", obj.username)}
        return super().render_change_form(request, context, *args, **options)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        before = User.objects.filter(pk=obj.pk).first() if change else None
        super().save_model(request, obj, form, change)
        by = request.user.get_username()
        if not before:
            user_audit.created(obj, by=by)
            return
        try:
            superusers.keep_one(before, obj)
        finally:
            user_audit.changed(before, obj, by=by)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        answer = super().user_change_password(request, id, form_url)
        if request.method == "POST" and answer.status_code == 302:
            user_audit.password_changed(User.objects.get(pk=unquote(id)), by=request.user.get_username())
        return answer


class NewTokenForm(forms.ModelForm):
    days = forms.FloatField(help_text="Days until it expires.", initial=lambda: f"{settings.ENVIRONMENT.token_days:g}")
    requester: User  # set by get_form() for each request

    class Meta:
        model = ApiToken
        fields = ("name", "role", "user")
        help_texts = {
            "name": "The program or the machine that uses the token.",
            "role": "The most that the token may do. If you choose none, it may do all that its user may.",
        }

    def clean(self) -> None:
        super().clean()
        if self.errors:
            return
        values = {"user": self.requester} | self.cleaned_data
        try:
            self.instance = api_tokens.build(**values)
        except FmvError as error:
            raise forms.ValidationError(str(error)) from None


@admin.register(ApiToken)
class ApiTokenAdmin(FleetAdmin):
    """Create and revoke API tokens: one's own, or for superusers those of all users."""

    form = NewTokenForm
    list_display = ("name", "short_id", "owner", "rights", "status", CREATED, EXPIRES, LAST_USED)
    list_select_related = ()  # False would join the users with all tokens, before the list's page is cut
    sortable_by = (CREATED,)
    autocomplete_fields = ("user",)
    actions = ("revoke",)
    shown = (*list_display, REVOKED)
    export_columns = export.TOKENS

    def has_module_permission(self, request: HttpRequest) -> bool:
        user: Any = request.user
        return bool(user.is_active and user.is_staff)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.has_module_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_module_permission(request)  # get_queryset() limits which ones

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # the record of a token is kept: revoke it instead

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiToken]:
        tokens = super().get_queryset(request).prefetch_related("user")
        user: Any = request.user
        return tokens if user.is_superuser else tokens.filter(user_id=user.pk)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        if obj is not None:
            return self.shown
        user: Any = request.user
        return ("name", "role", "days", *(("user",) if user.is_superuser else ()))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return () if obj is None else self.shown

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change, **kwargs)
        form.requester = request.user
        return form

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"user": request.user.pk, **super().get_changeform_initial_data(request)}

    def save_model(self, request: HttpRequest, obj: ApiToken, form: Any, change: bool) -> None:
        if sent_forms.is_first(request):
            api_tokens.store(obj, by=request.user.get_username())

    def response_add(self, request: HttpRequest, obj: ApiToken, post_url_continue: Any = None) -> HttpResponse:
        """Show the secret in this answer, because a message or a redirect would have to store it."""
        if obj._state.adding:
            messages.warning(request, "This form was sent before, so no other token was created.")
            return HttpResponseRedirect(reverse("admin:fmv_apitoken_changelist"))
        context = {**self.admin_site.each_context(request), "title": "A new API token", "opts": self.opts, "token": obj}
        answer: Any = TemplateResponse(request, "admin/fmv/apitoken/created.html", context)
        answer.shown_once = True
        return answer

    @admin.display(description="role")
    def rights(self, token: ApiToken) -> str:
        return "agent" if token.robot else token.get_role_display() if token.role else "same as user"

    @admin.display(description="of")
    def owner(self, token: ApiToken) -> str:
        return token.owner

    @admin.display(description="state")
    def status(self, token: ApiToken) -> str:
        return badge(token.state, f"state-{token.state}")

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if "_revoke" in request.POST and (token := self.get_object(request, unquote(object_id))):
            self.revoke(request, self.get_queryset(request).filter(pk=token.pk))
            return HttpResponseRedirect(request.path)
        return super().change_view(request, object_id, form_url, extra_context)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **options: Any
    ) -> HttpResponse:
        if obj := options.get("obj"):
            context |= {"audit": audit.of("token", obj.short_id), "token": obj}
        context["once"] = uuid4()
        return super().render_change_form(request, context, *args, **options)

    @admin.action(description="Revoke the selected tokens")
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        revoked = sum(api_tokens.revoke(token, by=request.user.get_username()) for token in queryset)
        self.message_user(request, f"Revoked {revoked} of {len(queryset)}.")
